"""A cache of one kind of object, fed by a reflector and read without awaiting.

The store knows the highest resourceVersion it has seen and relies on one fact: a watch delivers the changes
of a kind in the order of their versions. Hence whatever is not newer than the store is old news and is
dropped, be it a repeated event, an event that overtakes a list, or a list from a server that lags behind; and
`resource_version >= v` means that every change up to v is in the cache.

Objects in the store are shared by all readers: treat them as read-only.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Literal, TypeAlias

from . import metrics
from .objects import Key, Object, key_of, version_of

logger = logging.getLogger(__name__)

# MISSED is a deletion that a list shows, not an event: its object may have changed before it went.
Change = Literal["ADDED", "MODIFIED", "DELETED", "MISSED"]
# Called as handler(change, old, new), synchronously: `old` is None for ADDED, `new` is None for DELETED and MISSED,
# where `old` is the last state known.
Handler: TypeAlias = Callable[[Change, Object | None, Object | None], None]
IndexFunction: TypeAlias = Callable[[Object], Iterable[Hashable]]


class _Index:
    """Objects by the values that a function finds in them."""

    def __init__(self, function: IndexFunction) -> None:
        self.function = function
        self.buckets: dict[Hashable, dict[Key, Object]] = {}

    def insert(self, key: Key, obj: Object) -> None:
        for value in self.function(obj):
            self.buckets.setdefault(value, {})[key] = obj

    def remove(self, key: Key, obj: Object) -> None:
        for value in self.function(obj):
            bucket = self.buckets.get(value)
            if bucket is not None:
                bucket.pop(key, None)
                if not bucket:
                    del self.buckets[value]


class Store:
    """All cached objects of one kind by (namespace, name), with indexes, versions and change handlers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.resource_version = 0
        self.has_synced = False
        self.handlers: list[Handler] = []
        self._objects: dict[Key, Object] = {}
        self._indexes: dict[str, _Index] = {}
        self._synced = asyncio.Event()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()
        metrics.CACHED_OBJECTS.labels(name).set_function(lambda: len(self._objects))

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def keys(self) -> list[Key]:
        """The keys of all objects, as of now."""
        return list(self._objects)

    def values(self) -> list[Object]:
        """All objects, as of now."""
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        """The object of that name, or None; `store.get(*key)` reads by key."""
        return self._objects.get(Key(namespace, name))

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Index all objects by the values `function` returns for each. Raises ValueError if `name` is taken."""
        if name in self._indexes:
            raise ValueError(f"store {self.name} already has an index named {name}")
        index = self._indexes[name] = _Index(function)
        for key, obj in self._objects.items():
            index.insert(key, obj)

    def by_index(self, name: str, value: Hashable) -> list[Object]:
        """The objects for which index `name` yielded `value`. Raises KeyError for an unknown index."""
        return list(self._indexes[name].buckets.get(value, {}).values())

    def add_handler(self, handler: Handler) -> None:
        """Call `handler` for every change from now on, and at once with ADDED for each object held already."""
        self.handlers.append(handler)
        for obj in self.values():
            self._notify_one(handler, "ADDED", None, obj)

    def apply(self, change: Change, obj: Object) -> None:
        """Take in one watch event."""
        version = version_of(obj)
        key = key_of(obj)
        if change == "DELETED":
            # Some servers report a deletion under the object's last version, which is not newer than it.
            held = self._objects.get(key)
            if held is not None and (version == 0 or version_of(held) <= version):
                self._remove("DELETED", key, obj)
        elif version == 0 or (version > self.resource_version and not self._is_outdated(key, version)):
            self._put(key, obj)
        self.advance(version)

    def observe(self, obj: Object) -> None:
        """Take in the answer to a write of our own before its event arrives; the event is then old news.

        Handlers are told as by the event. An answer that the watch has overtaken is ignored, and
        `resource_version` stays, because changes by others up to that version may still be missing. The
        object must be one that the reflector's selectors admit, transformed as the reflector's are.
        """
        version = version_of(obj)
        key = key_of(obj)
        if version > self.resource_version and not self._is_outdated(key, version):
            self._put(key, obj)

    def replace(self, items: Iterable[Object], version: int, *, force: bool = False) -> bool:
        """Make a complete list the content, telling handlers the difference, deletions included.

        A list older than the store is refused (False), since the store would lose news that nobody repeats;
        `force` takes it nevertheless, which is right after the server itself went back in time.
        """
        if version < self.resource_version and not force:
            return False
        listed = {key_of(obj): obj for obj in items}
        for key, old in list(self._objects.items()):
            if key not in listed and (force or version_of(old) <= version):
                self._remove("MISSED", key, old)
        for key, obj in listed.items():
            if force or not self._is_outdated(key, version_of(obj)):
                self._put(key, obj)
        if force:
            self.resource_version = version
        self.has_synced = True
        self._synced.set()
        self.advance(version)
        return True

    def advance(self, version: int) -> None:
        """Note that everything up to `version` has been seen (a bookmark says so without an object)."""
        if version <= self.resource_version:
            return
        self.resource_version = version
        while self._waiters and self._waiters[0][0] <= version:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(None)

    async def wait_synced(self) -> None:
        """Return once the first complete list is in."""
        await self._synced.wait()

    async def wait_for_version(self, version: int, timeout_s: float) -> bool:
        """Wait until every change up to `version` is in; False if that takes longer than `timeout_s`.

        Without changes of this kind, versions advance by bookmarks alone, about once a minute.
        """
        if self.resource_version >= version:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (version, next(self._sequence), future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        return True

    def _is_outdated(self, key: Key, version: int) -> bool:
        """Whether the store holds the object in that version or a newer one."""
        held = self._objects.get(key)
        return held is not None and 0 < version <= version_of(held)

    def _put(self, key: Key, obj: Object) -> None:
        old = self._objects.get(key)
        self._objects[key] = obj
        for index in self._indexes.values():
            if old is not None:
                index.remove(key, old)
            index.insert(key, obj)
        self._notify("ADDED" if old is None else "MODIFIED", old, obj)

    def _remove(self, change: Change, key: Key, last_state: Object) -> None:
        old = self._objects.pop(key, None)
        if old is None:
            return
        for index in self._indexes.values():
            index.remove(key, old)
        self._notify(change, last_state, None)

    def _notify(self, change: Change, old: Object | None, new: Object | None) -> None:
        for handler in self.handlers:
            self._notify_one(handler, change, old, new)

    def _notify_one(self, handler: Handler, change: Change, old: Object | None, new: Object | None) -> None:
        # One object that a handler cannot cope with must not stop the news of all others.
        try:
            handler(change, old, new)
        except Exception:
            logger.exception(
                "handler failed", extra={"store": self.name, "change": change, "key": str(key_of(new or old or {}))}
            )
