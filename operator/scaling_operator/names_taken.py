"""Are the names of an attempt free, and if not, whose are they?

They are derived from the job's name, so anybody may have an object of such a name. What belongs to somebody else is
never touched: its name is taken, which is said before anything of the attempt stays, so that no half attempt stands
beside it. What an earlier job of this name has left over is deleted, since the garbage collector may take a quarter of
an hour: a name has one job at a time, so once this one is seen to have it, those that had it before are gone for good.

The caches hold only what bears the operator's label. What else is there is listed, names alone, for all jobs of a
namespace that begin within some seconds. Secrets the operator may not list, and to ask for one before each attempt
would be a request for every job: whether its name is free is told by its creation, before which there is a
NetworkPolicy at most, and that goes again. Only then it is asked for by its name, until it is free.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from scaling_api import API_VERSION, PLURAL, names

from .decide.pod_sets import pod_sets, workers_among
from .deletion import Deleter
from .kinds import POD, SECRET, SERVICE, Kind
from .mirrors import NOT_OURS, Mirrors
from .ownership import Target, is_of, is_of_namesake
from .runtime.client import ApiClient, resource_path
from .runtime.errors import NotFoundError
from .runtime.objects import Object

# For so long a list of what others have in a namespace is good enough: what comes later meets the creation itself.
_LISTED_FOR_S = 5.0
_CONTESTED_KEPT = 1000
_KEPT = ("name", "uid", "resourceVersion", "ownerReferences", "deletionTimestamp")


class NameTakenError(Exception):
    """An object of that name exists and is not this job's. `goes_by_itself`: it is being deleted."""

    def __init__(self, message: str, *, goes_by_itself: bool = False) -> None:
        super().__init__(message)
        self.goes_by_itself = goes_by_itself


@dataclass(slots=True)
class _Listed:
    """What others have of a kind in a namespace, and when that was asked for."""

    at: float
    found: dict[str, Object] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Names:
    """Sees to it that an attempt may have its names."""

    def __init__(self, client: ApiClient, mirrors: Mirrors, deleter: Deleter) -> None:
        self._client = client
        self._mirrors = mirrors
        self._deleter = deleter
        self._listed: dict[tuple[Kind, str], _Listed] = {}
        # Attempts whose Secret's name was somebody else's, by the job's uid and their number; the latest last.
        self._contested: OrderedDict[tuple[str, int], None] = OrderedDict()

    def ask_for_secret(self, target: Target, attempt: int) -> None:
        """Somebody else has the name of the attempt's Secret: from now on it is asked for before anything is made."""
        self._contested[target.uid, attempt] = None
        while len(self._contested) > _CONTESTED_KEPT:
            self._contested.popitem(last=False)

    async def claim(self, target: Target, attempt: int) -> None:
        """Raise NameTakenError unless all names that the attempt begins with are free, or the job's own already.

        What an earlier job of this name has left over is deleted.
        """
        in_the_way: list[tuple[Kind, Object]] = []
        wanted_names = _wanted(target, attempt)
        if (target.uid, attempt) in self._contested:
            wanted_names[SECRET] = [names.ray_cluster(target.key.name, attempt)]
        for kind, wanted in wanted_names.items():
            found = await self._find(kind, target.key.namespace, wanted)
            in_the_way += [(kind, obj) for obj in found if not is_of(obj, target.uid)]
        await self._free(target, in_the_way)

    async def settle(self, target: Target, kind: Kind, name: str) -> bool:
        """A create met this name: True when the object is the job's own, False when there is none any more.

        Raises NameTakenError when it is somebody else's.
        """
        store = self._mirrors.of(kind)
        found = store.get(target.key.namespace, name) if store is not None else None
        if found is None or not is_of(found, target.uid):  # the cache may be behind, or know nothing of it
            try:
                found = await self._client.get(kind.path(target.key.namespace, name), metadata_only=True)
            except NotFoundError:
                return False
        if is_of(found, target.uid):
            return True
        await self._free(target, [(kind, found)])
        return False

    async def _find(self, kind: Kind, namespace: str, wanted: Sequence[str]) -> list[Object]:
        """What there is under these names, as far as it is known without asking for each."""
        store = self._mirrors.of(kind)
        if store is None:
            asked = [self._get(kind, namespace, name) for name in wanted]
            return [obj for obj in await asyncio.gather(*asked) if obj is not None]
        cached = [store.get(namespace, name) for name in wanted]
        others = await self._others(kind, namespace)
        return [obj for obj in cached if obj is not None] + [others[name] for name in wanted if name in others]

    async def _get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            return await self._client.get(kind.path(namespace, name), metadata_only=True)
        except NotFoundError:
            return None

    async def _others(self, kind: Kind, namespace: str) -> dict[str, Object]:
        """What there is of a kind without the operator's label, by name; it may be some seconds old."""
        now = asyncio.get_running_loop().time()
        for key, old in list(self._listed.items()):
            if now - old.at > _LISTED_FOR_S and not old.lock.locked():
                del self._listed[key]
        listed = self._listed.setdefault((kind, namespace), _Listed(at=now))
        async with listed.lock:
            if listed.found is None:
                answer = await self._client.list(kind.path(namespace), label_selector=NOT_OURS, metadata_only=True)
                listed.found = {obj["metadata"]["name"]: _trimmed(obj) for obj in answer.items}
        return listed.found

    async def _free(self, target: Target, in_the_way: Sequence[tuple[Kind, Object]]) -> None:
        """Delete what earlier jobs of this name have left over. Raises NameTakenError for what stays, or stays yet."""
        if not in_the_way:
            return
        left_over = [is_of_namesake(obj, target.key.name, target.uid) for _, obj in in_the_way]
        has_name = any(left_over) and await self._has_its_name(target)
        going: list[str] = []
        taken: list[str] = []
        for (kind, obj), is_left_over in zip(in_the_way, left_over, strict=True):
            metadata = obj["metadata"]
            what = f"{kind.name} {metadata['name']}"
            if not (is_left_over and has_name):
                taken.append(what)
            elif "deletionTimestamp" in metadata or not await self._deleter.delete_left_over(target, kind, obj):
                going.append(what)
        if taken:
            raise NameTakenError(
                f"{_listing(taken)} exists and is not this job's: delete it if nobody needs it, or give the job "
                "another name"
            )
        if going:
            raise NameTakenError(
                f"{_listing(going)} is left over from an earlier job of this name and is being deleted",
                goes_by_itself=True,
            )

    async def _has_its_name(self, target: Target) -> bool:
        """Whether the job still is the one of its name, as of now: the cache may show one that has a successor."""
        path = resource_path(API_VERSION, PLURAL, target.key.namespace)
        found = await self._client.list(path, field_selector=f"metadata.name={target.key.name}", metadata_only=True)
        return [obj["metadata"]["uid"] for obj in found.items] == [target.uid]


def _wanted(target: Target, attempt: int) -> dict[Kind, list[str]]:
    """The names that an attempt begins with, but for those of NetworkPolicy and Secret, which are made first."""
    job, cluster = target.key.name, names.ray_cluster(target.key.name, attempt)
    slots = (slot for group in workers_among(pod_sets(target.job.spec.cluster)) for slot in group.slots)
    workers = [names.worker_pod(job, attempt, slot, 0) for slot in slots]
    return {SERVICE: [cluster], POD: [names.head_pod(job, attempt), *workers]}


def _trimmed(obj: Object) -> Object:
    return {"metadata": {name: value for name, value in obj["metadata"].items() if name in _KEPT}}


def _listing(found: Sequence[str]) -> str:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}"
