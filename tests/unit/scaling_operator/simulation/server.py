"""An API server in memory: unique names, versions, preconditions, graceful deletion, watches that lag.

It knows nothing of the operator. Whoever wants to check something on every change subscribes to it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from scaling_operator.runtime.errors import AlreadyExistsError, ConflictError, NotFoundError
from scaling_operator.runtime.objects import Key, Object
from scaling_operator.runtime.store import Change, Store

# The simulation begins here, so that times in statuses are real dates.
EPOCH_S = 1_800_000_000.0
Watcher = Callable[[str, Change, Object], None]


def copied(obj: Any) -> Any:
    """A deep copy."""
    return orjson.loads(orjson.dumps(obj))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


class Server:
    """Objects by plural and key. `skew_s` is how far its clock is ahead of the operator's."""

    def __init__(self, *, skew_s: float = 0.0) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.version = 100
        self.watchers: list[Watcher] = []
        self._uids = 0
        self._skew_s = skew_s

    def time(self) -> str:
        """The server's clock, as it stands in objects."""
        return self.time_in(0.0)

    def time_in(self, seconds: float) -> str:
        """The server's clock so many seconds from now."""
        now = EPOCH_S + asyncio.get_running_loop().time() + self._skew_s + seconds
        return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def all(self, plural: str) -> Iterator[Object]:
        """All objects of a kind, as of now."""
        yield from list(self.objects.get(plural, {}).values())

    def get(self, plural: str, key: Key) -> Object:
        """Raises NotFoundError."""
        try:
            return self.objects.setdefault(plural, {})[key]
        except KeyError:
            raise NotFoundError(404, "NotFound", f"{plural} {key} not found") from None

    def create(self, plural: str, body: Object) -> Object:
        """Raises AlreadyExistsError."""
        obj = copied(body)
        metadata = obj["metadata"]
        key = Key(metadata.get("namespace", ""), metadata["name"])
        if key in self.objects.setdefault(plural, {}):
            raise AlreadyExistsError(409, "AlreadyExists", f"{plural} {key} already exists")
        self._uids += 1
        metadata |= {"uid": f"uid-{self._uids}", "creationTimestamp": self.time(), "generation": 1}
        return self._store(plural, key, obj, "ADDED")

    def update(self, plural: str, obj: Object) -> Object:
        """Store `obj`, whose key exists, as a new version."""
        key = Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        self.get(plural, key)
        return self._store(plural, key, copied(obj), "MODIFIED")

    def patch(self, plural: str, key: Key, patch: Object, *, part: str) -> Object:
        """Merge `patch` into `spec` or `status`. Raises NotFoundError or ConflictError."""
        expected = patch.get("metadata") or {}
        old = self.check(plural, key, uid=expected.get("uid"), resource_version=expected.get("resourceVersion"))
        new = copied(old)
        new[part] = merge_patch(old.get(part) or {}, patch[part])
        if new == old:
            return old
        if part == "spec":
            new["metadata"]["generation"] += 1
        return self._store(plural, key, new, "MODIFIED")

    def check(self, plural: str, key: Key, *, uid: str | None, resource_version: str | None) -> Object:
        """The object, if it is as a deletion's preconditions say. Raises NotFoundError or ConflictError."""
        obj = self.get(plural, key)
        for name, expected in (("uid", uid), ("resourceVersion", resource_version)):
            if expected is not None and obj["metadata"][name] != expected:
                raise ConflictError(409, "Conflict", f"{plural} {key}: {name} is {obj['metadata'][name]}")
        return obj

    def mark_deleted(self, key: Key, grace_s: float) -> Object:
        """Give a pod its deletionTimestamp; the kubelet removes it later."""
        pod = copied(self.get("pods", key))
        pod["metadata"]["deletionTimestamp"] = self.time_in(grace_s)
        return self._store("pods", key, pod, "MODIFIED")

    def remove(self, plural: str, key: Key) -> None:
        """The object is gone, and with a job all that it owns."""
        obj = copied(self.objects[plural].pop(key))
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._tell(plural, "DELETED", obj)

    def _store(self, plural: str, key: Key, obj: Object, change: Change) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[plural][key] = obj
        self._tell(plural, change, obj)
        return obj

    def _tell(self, plural: str, change: Change, obj: Object) -> None:
        for watcher in list(self.watchers):
            watcher(plural, change, obj)


class Feed:
    """Brings one kind's changes to a store: in order, each some time after it happened."""

    def __init__(
        self,
        server: Server,
        plural: str,
        store: Store,
        rng: random.Random,
        *,
        transform: Callable[[Object], Object],
    ) -> None:
        self._server = server
        self._transform = transform
        self._plural = plural
        self._store = store
        self._rng = rng
        self._pending: list[tuple[Change, Object]] = []
        self._due = 0.0
        self.lag_s = 0.05
        self.relist()
        server.watchers.append(self._on_change)

    def relist(self) -> None:
        """As after a 410: whatever was on its way is replaced by a list."""
        self._pending, self._due = [], 0.0
        items = [self._transform(copied(obj)) for obj in self._server.all(self._plural)]
        self._store.replace(items, self._server.version)

    def close(self) -> None:
        """No more news."""
        self._server.watchers.remove(self._on_change)
        self._pending = []

    def _on_change(self, plural: str, change: Change, obj: Object) -> None:
        if plural != self._plural:
            return
        loop = asyncio.get_running_loop()
        self._due = max(self._due, loop.time() + self._rng.random() * self.lag_s)
        self._pending.append((change, self._transform(copied(obj))))
        loop.call_at(self._due, self._deliver, self._pending)

    def _deliver(self, pending: list[tuple[Change, Object]]) -> None:
        # Timers of the same moment fire in any order, so each takes the oldest event; a list has its own timers.
        if pending is self._pending:
            self._store.apply(*pending.pop(0))
