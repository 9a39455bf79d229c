"""A job's life under faults, and what must hold whatever happens.

`live` plays a script of troubles, each at its time, then lets everything calm down and waits for the job's end.
What must hold is checked at every change that the server takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scaling_api import names
from scaling_operator.job_controller import JobController
from scaling_operator.runtime.objects import Key, Object, key_of
from scaling_operator.runtime.store import Change

from .kubelet import OWNED, Kubelet
from .operator import Faults, SimulatedOperator
from .server import Server, copied

JOB = Key("team", "mnist")
WORK_S = 150.0
TROUBLES_S = 400
# With the longest pauses between attempts, everything is over long before.
PATIENCE_S = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens `at_s`; `pick` chooses among pods or values."""

    at_s: int
    name: str
    pick: int


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left when all is over. The status is empty if the job has been deleted."""

    status: Object
    requests: Counter[tuple[str, str]]
    left: dict[str, list[str]]
    # Of the pods that are left, those that have not ended.
    alive: list[str]
    job_is_gone: bool


class World:
    """The server with everything around it."""

    def __init__(self, run_policy: dict[str, Any], *, seed: int, skew_s: float) -> None:
        self._rng = random.Random(seed)
        self.server = Server(skew_s=skew_s)
        self.server.watchers.append(self._check)
        self.kubelet = Kubelet(self.server, self._rng, work_s=WORK_S)
        self.faults = Faults()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.violations: list[BaseException] = []
        # Attempts whose head has had a node.
        self._placed: set[int] = set()
        self._backoff_limit = run_policy["backoffLimit"]
        self.server.create("scalingjobs", _manifest(run_policy))
        self.operator = SimulatedOperator(self.server, self.kubelet, self.faults, self._rng)

    @property
    def job(self) -> Object | None:
        """The job as the server has it."""
        return self.server.objects["scalingjobs"].get(JOB)

    @property
    def status(self) -> Object:
        """Its status."""
        return (self.job or {}).get("status") or {}

    def left(self) -> dict[str, list[str]]:
        """Names of what there is of an attempt's kinds."""
        return {plural: sorted(obj["metadata"]["name"] for obj in self.server.all(plural)) for plural in OWNED}

    async def restart(self, *, away_s: float = 0.0) -> None:
        """The operator's process ends, and after so long another one starts."""
        await self.operator.kill()
        await asyncio.sleep(away_s)
        self.requests.update(self.operator.client.requests)
        self.operator = SimulatedOperator(self.server, self.kubelet, self.faults, self._rng)

    def standby(self) -> JobController:
        """The controller of another replica, which sees everything and does nothing."""
        return SimulatedOperator(self.server, self.kubelet, self.faults, self._rng, leads=False).controller

    async def cause(self, trouble: Trouble) -> None:
        """Let it happen."""
        await TROUBLES[trouble.name](self, trouble.pick)

    def delete(self) -> None:
        """The user deletes the job."""
        if self.job is not None:
            self.server.remove("scalingjobs", JOB)

    async def calm(self) -> None:
        """Nothing goes wrong any more, and nobody wants the job suspended."""
        self.faults.failing = 0.0
        self.faults.pods_refused = False
        self.kubelet.no_room_for_heads = self.kubelet.no_images = False
        self.kubelet.thaw()
        for feed in self.operator.feeds:
            feed.lag_s = 0.05
        self.edit({"runPolicy": {"suspend": False}})

    def edit(self, spec: Object) -> None:
        """The user's change of the spec."""
        if self.job is not None:
            self.server.patch("scalingjobs", JOB, {"spec": spec}, part="spec")

    def pick(self, pick: int, role: str) -> Object | None:
        """One of the pods of that role."""
        pods = [pod for pod in self.server.all("pods") if pod["metadata"]["labels"].get(names.LABEL_ROLE) == role]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))[pick % len(pods)] if pods else None

    def _check(self, plural: str, change: Change, obj: Object) -> None:
        try:
            if plural == "pods" and change == "ADDED":
                self._check_new_pod(obj)
            if plural == "pods" and "nodeName" in obj["spec"] and _is_head(obj):
                self._placed.add(int(obj["metadata"]["labels"][names.LABEL_ATTEMPT]))
            if plural == "scalingjobs" and change == "MODIFIED":
                self._check_status(obj.get("status") or {})
        except AssertionError as error:
            # Kept, because raised from here it would look to the operator like an answer of the server.
            self.violations.append(error)

    def _check_new_pod(self, pod: Object) -> None:
        owners = [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()]
        if self.job is None or self.job["metadata"]["uid"] not in owners:
            return  # somebody else's, or of a job that is gone, which a lagging cache still shows
        labels = pod["metadata"]["labels"]
        attempt, name = int(labels[names.LABEL_ATTEMPT]), pod["metadata"]["name"]
        assert attempt <= self.status.get("attempt", 0), f"{name} is of an attempt that is not persisted"
        if _is_head(pod):
            return
        assert attempt in self._placed, f"{name} came before its head had a node"
        slot = f"{labels[names.LABEL_GROUP]}-{labels[names.LABEL_INDEX]}"
        if attempt == self.status["attempt"]:
            persisted = self.status.get("incarnations", {}).get(slot, 0)
            assert int(labels[names.LABEL_INCARNATION]) <= persisted, f"{name} is not persisted"
        twins = [
            twin["metadata"]["name"]
            for twin in self.server.all("pods")
            if all(
                twin["metadata"]["labels"].get(label) == labels[label]
                for label in (names.LABEL_ATTEMPT, names.LABEL_ROLE, names.LABEL_GROUP, names.LABEL_INDEX)
            )
            and _is_alive(twin)
        ]
        assert twins == [name], f"two pods live in one slot: {twins}"

    def _is_ours(self, obj: Object) -> bool:
        """Whether it is the operator's to delete; a pod whose node does not answer has to be taken for gone."""
        return "ownerReferences" in obj["metadata"] and obj["metadata"]["uid"] not in self.kubelet.frozen

    def _check_status(self, status: Object) -> None:
        counted = status.get("failures", 0)
        assert counted <= self._backoff_limit + 1, f"{counted} attempts counted"
        holds = {entry["type"] for entry in status.get("conditions") or () if entry["status"] == "True"}
        assert not {"Succeeded", "Failed"} <= holds, "both ends at once"
        if "Suspended" in holds:
            left = {
                plural: [obj["metadata"]["name"] for obj in self.server.all(plural) if self._is_ours(obj)]
                for plural in OWNED
            }
            assert not any(left.values()), f"suspended, but there are {left}"
        kinds = [entry["type"] for entry in status.get("conditions") or ()]
        assert len(kinds) == len(set(kinds))


async def live(troubles: Sequence[Trouble], run_policy: dict[str, Any], *, seed: int, skew_s: float) -> Ending:
    """Play the script; the status at the end, and what is left some time later."""
    world = World(run_policy, seed=seed, skew_s=skew_s)
    loop = asyncio.get_running_loop()
    failures = world.violations
    loop.set_exception_handler(lambda _, context: failures.append(context.get("exception") or _BugError(context)))
    with _bugs_logged(failures):
        return await _play(world, troubles)


async def _play(world: World, troubles: Sequence[Trouble]) -> Ending:
    loop, failures = asyncio.get_running_loop(), world.violations
    began = loop.time()
    for trouble in sorted(troubles, key=lambda trouble: trouble.at_s):
        await asyncio.sleep(began + trouble.at_s - loop.time())
        await world.cause(trouble)
        _reraise(failures)
    await asyncio.sleep(began + TROUBLES_S - loop.time())
    await world.calm()
    status: Object = {}
    while world.job is not None and not status.get("finishedAt"):
        await asyncio.sleep(10.0)
        status = copied(world.status)
        _reraise(failures)
        assert loop.time() - began < PATIENCE_S, f"it never ends: {status}"
    await asyncio.sleep(300.0)
    _reraise(failures)
    await world.operator.kill()
    world.requests.update(world.operator.client.requests)
    alive = [pod["metadata"]["name"] for pod in world.server.all("pods") if _is_alive(pod)]
    return Ending(status, world.requests, world.left(), alive, job_is_gone=world.job is None)


class _BugError(Exception):
    """Something went wrong that is nobody's trouble."""


@contextlib.contextmanager
def _bugs_logged(failures: list[BaseException]) -> Iterator[None]:
    """Have what the controller logs as a bug among the failures."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            failures.append(error or _BugError(record.getMessage()))

    logger, handler = logging.getLogger("scaling_operator"), Handler(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _reraise(failures: list[BaseException]) -> None:
    if failures:
        raise failures[0]


def _is_head(pod: Object) -> bool:
    return bool(pod["metadata"]["labels"][names.LABEL_ROLE] == names.ROLE_HEAD)


def _is_alive(pod: Object) -> bool:
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not over and "deletionTimestamp" not in pod["metadata"]


def _manifest(run_policy: dict[str, Any]) -> Object:
    return {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": JOB.name, "namespace": JOB.namespace},
        "spec": {
            "storage": {"claimName": "runs"},
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits"},
            "training": {"epochs": 1},
            "cluster": {"workers": [{"name": "cpu", "min": 1, "max": 3}]},
            "runPolicy": run_policy,
        },
    }


def _to_pod(role: str, act: Callable[[World, Object], Any]) -> Callable[[World, int], Any]:
    async def cause(world: World, pick: int) -> None:
        pod = world.pick(pick, role)
        if pod is not None and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            act(world, pod)

    return cause


async def _suspend(world: World, pick: int) -> None:
    world.edit({"runPolicy": {"suspend": True}})


async def _resume(world: World, pick: int) -> None:
    world.edit({"runPolicy": {"suspend": False}})


async def _resize(world: World, pick: int) -> None:
    world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 1 + pick % 4}]}})


async def _another_image(world: World, pick: int) -> None:
    world.edit({"cluster": {"image": f"runtime:{pick}"}})


async def _restart(world: World, pick: int) -> None:
    await world.restart()


async def _lag(world: World, pick: int) -> None:
    for feed in world.operator.feeds[pick % 2 :: 2]:
        feed.lag_s = 20.0 if pick > 3 else 2.0


async def _expire(world: World, pick: int) -> None:
    for feed in world.operator.feeds:
        feed.relist()


async def _fail_requests(world: World, pick: int) -> None:
    world.faults.failing = 0.1 * (pick % 6)


async def _refuse_pods(world: World, pick: int) -> None:
    world.faults.pods_refused = pick % 2 == 0


async def _no_room(world: World, pick: int) -> None:
    world.kubelet.no_room_for_heads = pick % 2 == 0


async def _no_images(world: World, pick: int) -> None:
    world.kubelet.no_images = pick % 2 == 0


async def _delete(world: World, pick: int) -> None:
    world.delete()


async def _report(world: World, pick: int) -> None:
    if world.job is not None:
        world.server.patch("scalingjobs", JOB, {"status": {"progress": {"percent": pick}}}, part="status")


def _running(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _end(world: World, pod: Object, **how: Any) -> None:
    if _running(pod):
        world.kubelet.end(pod, **how)


HEAD, WORKER = names.ROLE_HEAD, names.ROLE_WORKER
TROUBLES: dict[str, Callable[[World, int], Any]] = {
    "worker crashes": _to_pod(WORKER, lambda world, pod: _end(world, pod, exit_code=1)),
    "worker ends well": _to_pod(WORKER, lambda world, pod: _end(world, pod, exit_code=0)),
    "worker evicted": _to_pod(WORKER, lambda world, pod: world.kubelet.evict(pod)),
    "worker deleted": _to_pod(WORKER, lambda world, pod: world.kubelet.delete(key_of(pod), 30.0)),
    "worker's node lost": _to_pod(WORKER, lambda world, pod: world.kubelet.lose_node(pod)),
    "head deleted": _to_pod(HEAD, lambda world, pod: world.kubelet.delete(key_of(pod), 30.0)),
    "head drained": _to_pod(HEAD, lambda world, pod: world.kubelet.drain(pod)),
    "head evicted": _to_pod(HEAD, lambda world, pod: world.kubelet.evict(pod)),
    "head's node lost": _to_pod(HEAD, lambda world, pod: world.kubelet.lose_node(pod)),
    "driver fails": _to_pod(HEAD, lambda world, pod: _end(world, pod, exit_code=1)),
    "driver out of memory": _to_pod(HEAD, lambda world, pod: _end(world, pod, exit_code=137, reason="OOMKilled")),
    "driver silent": _to_pod(HEAD, lambda world, pod: world.kubelet.silence(pod, 20.0)),
    "driver frozen": _to_pod(HEAD, lambda world, pod: world.kubelet.silence(pod, 600.0)),
    "ray restarts": _to_pod(HEAD, lambda world, pod: world.kubelet.restart_ray(pod)),
    "suspend": _suspend,
    "resume": _resume,
    "resize": _resize,
    "another image": _another_image,
    "operator restarts": _restart,
    "caches lag": _lag,
    "watches expire": _expire,
    "requests fail": _fail_requests,
    "pods refused": _refuse_pods,
    "no room for heads": _no_room,
    "no images": _no_images,
    "progress": _report,
    "job deleted": _delete,
}
