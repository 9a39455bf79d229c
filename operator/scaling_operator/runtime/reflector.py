"""Mirrors a collection of the API server into a store: one consistent list, then a watch for ever.

Everything that can go wrong ends in the same loop: pause (jittered, growing, never shorter than the server's
Retry-After), then watch on from the last version, or list again if the server has forgotten that version.
A re-list is compared with the store, so objects that vanished meanwhile are reported as deleted. A connection
that is dead without saying so is found out by silence, as bookmarks come every minute.

`run` returns only by cancellation; an exception that escapes it is a bug and is meant to end the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from . import metrics
from .backoff import Backoff
from .client import PAGE_SIZE, WATCH_SILENCE_S, ApiClient
from .errors import ApiError, ExpiredError
from .objects import Object, parse_version, version_of
from .store import Store

logger = logging.getLogger(__name__)

# A list that is older than the store is asked for again this often; then the server has truly gone back in
# time (restored from a backup) and its word counts.
STALE_LISTS_TOLERATED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorTiming:
    """Waiting times; the defaults suit every real server."""

    watch_min_s: float = 300.0
    watch_max_s: float = 600.0
    silence_s: float = WATCH_SILENCE_S
    backoff_base_s: float = 0.2
    backoff_max_s: float = 30.0


class StaleListError(Exception):
    """The server answered a list from before what the store has already seen."""


class Reflector:
    """Keeps `store` equal to the collection at `path`, narrowed by selectors.

    `transform` may drop what nobody reads (managedFields always go) and returns the object to store; it owns
    the object it is given. With `metadata_only` the server sends no spec and no status.
    """

    def __init__(
        self,
        client: ApiClient,
        path: str,
        store: Store,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        metadata_only: bool = False,
        transform: Callable[[Object], Object] | None = None,
        name: str | None = None,
        page_size: int = PAGE_SIZE,
        timing: ReflectorTiming | None = None,
    ) -> None:
        self.name = name or store.name
        self.store = store
        self._client = client
        self._path = path
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._metadata_only = metadata_only
        self._transform = transform
        self._page_size = page_size
        self._timing = timing or ReflectorTiming()
        self._backoff = Backoff(base_s=self._timing.backoff_base_s, max_s=self._timing.backoff_max_s)
        self._needs_list = True
        self._stale_lists = 0
        # On the event loop's clock; when the last list that got into the store was asked for.
        self.last_list_began_at = float("-inf")
        self._last_news_at: float | None = None
        self._last_problem: str | None = None

    async def run(self) -> None:
        """List and watch until cancelled."""
        loop = asyncio.get_running_loop()
        self._last_news_at = loop.time()
        metrics.WATCH_AGE.labels(self.name).set_function(lambda: self.last_news_age_s(loop.time()))
        while True:
            retry_after_s = 0.0
            try:
                if self._needs_list:
                    await self._list()
                    self._needs_list = False
                await self._watch()
            except (ApiError, StaleListError) as exc:
                self._needs_list = self._needs_list or isinstance(exc, ExpiredError)
                retry_after_s = getattr(exc, "retry_after_s", None) or 0.0
                self._report(exc)
            await asyncio.sleep(max(retry_after_s, self._backoff.next_s()))

    async def refresh(self) -> None:
        """Read a list now, beside the running watch, so that the store is at least as new as this moment.

        For a moment when being a little late would be wrong, such as taking over from another leader. Raises
        ApiError when the list cannot be read.
        """
        await self._list(skip_if_stale=True)

    def observe(self, answer: Object) -> None:
        """Put the answer to a write of our own into the store at once; its watch event is then old news.

        So the next look at the cache sees what this process has done itself. Takes over `answer`, which must
        be an object that the selectors admit.
        """
        self.store.observe(self._prepare(answer))

    def last_news_age_s(self, now: float) -> float:
        """Seconds since the server last sent anything, `now` by the event loop's clock."""
        return now - self._last_news_at if self._last_news_at is not None else 0.0

    async def _list(self, *, skip_if_stale: bool = False) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        items: list[Object] = []
        resource_version = ""
        async for page in self._client.list_pages(
            self._path,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            limit=self._page_size,
            metadata_only=self._metadata_only,
        ):
            for obj in page.items:
                # Lists name the kind once; with it an object reads the same from a list and from a watch.
                obj.setdefault("apiVersion", page.api_version)
                obj.setdefault("kind", page.kind)
                items.append(self._prepare(obj))
            resource_version = page.resource_version
        metrics.LISTS.labels(self.name).inc()
        version = parse_version(resource_version)
        force = self._stale_lists >= STALE_LISTS_TOLERATED and not skip_if_stale
        if not self.store.replace(items, version, force=force) and not skip_if_stale:
            self._stale_lists += 1
            raise StaleListError(f"list at version {version}, store at {self.store.resource_version}")
        self._stale_lists = 0
        self.last_list_began_at = began_at
        self._last_news_at = loop.time()

    async def _watch(self) -> None:
        timing = self._timing
        metrics.WATCHES.labels(self.name).inc()
        events = metrics.WATCH_EVENTS.labels(self.name)
        store = self.store
        loop = asyncio.get_running_loop()
        watch = self._client.watch(
            self._path,
            resource_version=str(store.resource_version),
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            metadata_only=self._metadata_only,
            timeout_s=random.uniform(timing.watch_min_s, timing.watch_max_s),
            silence_s=timing.silence_s,
        )
        async with contextlib.aclosing(watch) as changes:
            async for kind, obj in changes:
                events.inc()
                # Only what a watch delivers is progress: a list that works says nothing about watches, and
                # to start over with short pauses after each would be a storm of lists.
                self._last_news_at = loop.time()
                self._backoff.reset()
                self._last_problem = None
                if kind == "BOOKMARK":
                    store.advance(version_of(obj))
                else:
                    store.apply(kind, self._prepare(obj))

    def _prepare(self, obj: Object) -> Object:
        obj["metadata"].pop("managedFields", None)
        return self._transform(obj) if self._transform is not None else obj

    def _report(self, exc: Exception) -> None:
        metrics.WATCH_FAILURES.labels(self.name).inc()
        # A server that is away for an hour is one line in the log, not a thousand.
        problem = f"{type(exc).__name__}: {exc}"
        level = logging.DEBUG if problem == self._last_problem else logging.WARNING
        self._last_problem = problem
        logger.log(level, "watch of %s interrupted: %s", self.name, exc)
