"""Read your own writes: tells whether a cache already shows what we wrote for a key.

After creating five pods the cache may still show none of them for some milliseconds (or a minute, if the API
server is slow); a reconcile that ran then would decide on a past that it has itself changed. So each write
notes the version that the server returned, and until the store has reached it the key is not reconciled. The
event that brings the store up to date is the one that queues the key again, so nothing polls.

Waiting ends after a deadline even if that version never shows up, e.g. because the object does not match the
reflector's selectors. Deterministic names then still keep a second create from doing harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .objects import Object, version_of
from .store import Store

K = TypeVar("K", bound=Hashable)

GIVE_UP_AFTER_S = 10.0


class _Pending:
    __slots__ = ("deadline", "versions")

    def __init__(self) -> None:
        self.versions: dict[Store, int] = {}
        self.deadline = 0.0


class WriteTracker(Generic[K]):
    """Remembers per key how far each store has to come before it shows our own writes."""

    def __init__(self, *, give_up_after_s: float = GIVE_UP_AFTER_S, clock: Callable[[], float] | None = None) -> None:
        self._give_up_after_s = give_up_after_s
        self._clock = clock or asyncio.get_running_loop().time
        self._pending: dict[K, _Pending] = {}

    def record(self, key: K, store: Store, obj: Object) -> None:
        """A write for `key` was answered with `obj`, an object of the kind that `store` holds."""
        self.record_version(key, store, version_of(obj))

    def record_version(self, key: K, store: Store, version: int) -> None:
        """As `record`, for callers that hold only the version; one that the store has reached is no debt."""
        if version <= store.resource_version:
            return
        pending = self._pending.setdefault(key, _Pending())
        pending.versions[store] = max(version, pending.versions.get(store, 0))
        pending.deadline = self._clock() + self._give_up_after_s

    def caught_up(self, key: K) -> bool:
        """Whether the stores show everything recorded for `key`, or waiting for it has been given up."""
        return self.wait_s(key) == 0.0

    def wait_s(self, key: K) -> float:
        """Seconds for which reconciling `key` should still be put off at most; 0 when it may go ahead."""
        pending = self._pending.get(key)
        if pending is None:
            return 0.0
        remaining_s = pending.deadline - self._clock()
        if remaining_s > 0 and any(store.resource_version < v for store, v in pending.versions.items()):
            return remaining_s
        del self._pending[key]
        return 0.0

    def forget(self, key: K) -> None:
        """Drop what is known of `key`, whose object is gone."""
        self._pending.pop(key, None)
