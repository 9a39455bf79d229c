"""Deletes what is a job's, and nothing else: every deletion names the uid of what was seen to be ours.

"Not found" is success, and so is the conflict of a uid: another object has the name now. What was deleted is noted for
the reconcile that follows.
"""

from __future__ import annotations

from scaling_api import API_VERSION, PLURAL, names

from .decide.types import DeletePods
from .kinds import NETWORK_POLICY, POD, SECRET, SERVICE, Kind
from .mirrors import Mirrors
from .ownership import Target, is_of
from .runtime.client import ApiClient, resource_path
from .runtime.errors import ConflictError, NotFoundError
from .runtime.objects import Key, Object
from .runtime.tracker import WriteTracker
from .together import all_done

MAX_DELETES = 512
_DELETES_AT_ONCE = 32


class Deleter:
    """Deletions by kind, name and uid."""

    def __init__(self, client: ApiClient, mirrors: Mirrors, tracker: WriteTracker[Key]) -> None:
        self._client = client
        self._mirrors = mirrors
        self._tracker = tracker

    async def delete(self, target: Target, kind: Kind, name: str, uid: str) -> None:
        """Delete one object of the job's."""
        try:
            answer = await self._client.delete(kind.path(target.key.namespace, name), uid=uid)
        except (NotFoundError, ConflictError):  # gone, or another one's
            return
        store = self._mirrors.of(kind)
        # While an object terminates the answer is the object; what is gone at once tells no version.
        if store is not None and answer.get("kind") != "Status":
            self._tracker.record(target.key, store, answer)

    async def delete_left_over(self, target: Target, kind: Kind, found: Object) -> bool:
        """Delete what an earlier job of this name has left over, if it still is as it was seen; whether it is gone.

        What the cache shows as that job's may have been given to somebody else since: with the job's deletion
        owner references are taken away if its user asked for that.
        """
        metadata = found["metadata"]
        path = kind.path(target.key.namespace, metadata["name"])
        try:
            answer = await self._client.delete(path, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        except NotFoundError:
            return True
        except ConflictError:
            return False
        return "deletionTimestamp" not in answer.get("metadata", {})

    async def delete_pods(self, target: Target, action: DeletePods) -> bool:
        """Delete pods; False when some were left for the next reconcile."""
        todo = action.pods[:MAX_DELETES]
        for start in range(0, len(todo), _DELETES_AT_ONCE):
            batch = todo[start : start + _DELETES_AT_ONCE]
            await all_done([self.delete(target, POD, name, uid) for name, uid in batch])
        return len(action.pods) <= MAX_DELETES

    async def delete_attempt(self, target: Target, attempt: int, secret_uid: str | None) -> None:
        """Delete an attempt's Secret, NetworkPolicy and Service; `secret_uid` if it is known."""
        name = names.ray_cluster(target.key.name, attempt)
        # The Secret is in no cache: as long as it may exist, something that is in one has to.
        if secret_uid is None:
            secret_uid = await self._uid_of_secret(target, name)
        if secret_uid is not None:
            await self.delete(target, SECRET, name, secret_uid)
        calls = []
        for kind in (NETWORK_POLICY, SERVICE):
            store = self._mirrors.of(kind)
            found = store.get(target.key.namespace, name) if store is not None else None
            if found is not None and is_of(found, target.uid):
                calls.append(self.delete(target, kind, name, found["metadata"]["uid"]))
        await all_done(calls)

    async def delete_job(self, target: Target) -> None:
        """Delete the job as it was looked at: one that was edited since may be meant to stay."""
        metadata = target.manifest["metadata"]
        try:
            await self._client.delete(
                resource_path(API_VERSION, PLURAL, *target.key),
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
                propagation="Background",
            )
        except (NotFoundError, ConflictError):
            pass

    async def _uid_of_secret(self, target: Target, name: str) -> str | None:
        """The uid of the job's Secret of that name, if that is what has the name."""
        try:
            found = await self._client.get(SECRET.path(target.key.namespace, name), metadata_only=True)
        except NotFoundError:
            return None
        return str(found["metadata"]["uid"]) if is_of(found, target.uid) else None
