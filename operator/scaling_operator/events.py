"""Kubernetes Events, sent on the side: recording one never waits, and never fails a reconcile.

Events go through a bounded queue to one sender. What is said again of the same object for the same reason, within
some minutes of the last time, does not become another Event: it is counted, and the count is written once in a
while. Something else is one, up to a few per reason; beyond that it is counted too. So a job that flaps costs the API
server a few requests per interval instead of a storm. When the queue is full, events are dropped and counted. What
is still in the queue when `run` is cancelled gets a moment to be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from prometheus_client import Counter

from .runtime.client import MERGE_PATCH, ApiClient, resource_path
from .runtime.errors import ApiError
from .runtime.objects import Object

logger = logging.getLogger(__name__)

EventType: TypeAlias = Literal["Normal", "Warning"]

QUEUE_SIZE = 1000
# Repetitions within this time since the last one belong to one series.
SERIES_S = 360.0
# The least time between two writes of a series' count.
COUNT_INTERVAL_S = 60.0
# Of one object and reason: so many different notes are Events of their own.
MAX_NOTES = 8
MAX_TOPICS = 2000
DRAIN_S = 2.0
MAX_NOTE_CHARACTERS = 1024

EVENTS = Counter("scaling_events_total", "Events of jobs by what became of them", ["result"])

_GROUP_VERSION = "events.k8s.io/v1"


@dataclass(slots=True)
class _Series:
    """An Event that was sent, and how often the same has happened since."""

    path: str
    last_at: float
    written_at: float
    count: int = 1


@dataclass(slots=True)
class _Topic:
    """What is being said of one object for one reason; series by note, those of the last repetition last."""

    last_at: float
    series: OrderedDict[str, _Series] = field(default_factory=OrderedDict)

    def find(self, note: str, now: float) -> _Series | None:
        """The series that `note` belongs to, if it is not one of its own."""
        for known, series in list(self.series.items()):
            if now - series.last_at >= SERIES_S:
                del self.series[known]
        if note not in self.series and len(self.series) >= MAX_NOTES:
            note = next(reversed(self.series))
        if note in self.series:
            self.series.move_to_end(note)
        return self.series.get(note)


@dataclass(frozen=True, slots=True)
class _Write:
    """One request of the sender: create the Event (no `path`) or patch it."""

    body: Object
    collection: str
    path: str | None = None


_TopicKey: TypeAlias = tuple[str, str, str]


class EventRecorder:
    """Records Events about objects; `run` sends them until it is cancelled.

    `controller` and `instance` say who reports; `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        controller: str = "scaling.dev/scaling-operator",
        instance: str = "scaling-operator",
        clock: Callable[[], float] = time.time,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._clock = clock
        self._queue: asyncio.Queue[_Write] = asyncio.Queue(queue_size)
        # Ordered by the last repetition, oldest first.
        self._topics: OrderedDict[_TopicKey, _Topic] = OrderedDict()

    def record(
        self, regarding: Object, event_type: EventType, reason: str, note: str, *, action: str = "Reconcile"
    ) -> None:
        """Have an Event about the object `regarding` sent. Returns at once and raises nothing."""
        now = self._clock()
        note = note[:MAX_NOTE_CHARACTERS]
        self._forget_old(now)
        metadata = regarding["metadata"]
        collection = resource_path(_GROUP_VERSION, "events", metadata.get("namespace") or "default")
        key = (str(metadata.get("uid")), reason, event_type)
        topic = self._topics.setdefault(key, _Topic(now))
        topic.last_at = now
        self._topics.move_to_end(key)
        series = topic.find(note, now)
        if series is None:
            body = self._event(regarding, event_type, reason, note, action, now)
            path = f"{collection}/{body['metadata']['name']}"
            if self._enqueue(_Write(body, collection)):
                topic.series[note] = _Series(path, last_at=now, written_at=now)
            return
        series.count += 1
        series.last_at = now
        if now - series.written_at < COUNT_INTERVAL_S:
            EVENTS.labels("aggregated").inc()
            return
        observed = {"count": series.count, "lastObservedTime": _micro_time(now)}
        # The server takes no other change of an Event than that of its series.
        if self._enqueue(_Write({"series": observed}, collection, series.path)):
            series.written_at = now

    async def run(self) -> None:
        """Send what was recorded, one at a time and in order, until cancelled."""
        write: _Write | None = None
        try:
            while True:
                write = await self._queue.get()
                await self._send(write)
                write = None
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    # One that was under way goes again: if it had arrived, its name is taken.
                    if write is not None:
                        await self._send(write)
                    while not self._queue.empty():
                        await self._send(self._queue.get_nowait())
            raise

    async def _send(self, write: _Write) -> None:
        try:
            if write.path is None:
                await self._client.create(write.collection, write.body)
            else:
                await self._client.patch(write.path, write.body, content_type=MERGE_PATCH)
            EVENTS.labels("sent").inc()
        except ApiError as exc:
            # An Event is a courtesy: its namespace may be going, or the server be busy with more important things.
            EVENTS.labels("failed").inc()
            logger.debug("an event was not sent: %s", exc)

    def _enqueue(self, write: _Write) -> bool:
        try:
            self._queue.put_nowait(write)
        except asyncio.QueueFull:
            EVENTS.labels("dropped").inc()
            return False
        return True

    def _forget_old(self, now: float) -> None:
        while self._topics:
            oldest = next(iter(self._topics.values()))
            if now - oldest.last_at < SERIES_S and len(self._topics) < MAX_TOPICS:
                return
            self._topics.popitem(last=False)

    def _event(
        self, regarding: Object, event_type: EventType, reason: str, note: str, action: str, now: float
    ) -> Object:
        metadata = regarding["metadata"]
        reference = {
            "apiVersion": regarding.get("apiVersion"),
            "kind": regarding.get("kind"),
            **{
                field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion") if field in metadata
            },
        }
        return {
            "apiVersion": _GROUP_VERSION,
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata.get("namespace") or "default",
            },
            "eventTime": _micro_time(now),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "regarding": reference,
            "type": event_type,
            "reason": reason,
            "action": action,
            "note": note,
        }


def _micro_time(now: float) -> str:
    """A Kubernetes MicroTime."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
