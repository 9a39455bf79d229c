"""What the controller remembers of jobs between two looks at them.

All of it is disposable: an operator that restarts learns it anew. A standby, which looks at no job, hears of pods as
the leader does; should it take over, it knows how they were last seen. So what nobody will ask for any more is dropped
as soon as the job's status says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scaling_api import names

from .decide.status import remember
from .decide.types import Memory, PodView
from .observe import PodViews
from .ownership import owner_uids
from .refusals import Refusal
from .runtime.objects import Object
from .runtime.store import Store
from .specs import Parsed


@dataclass(slots=True)
class Notes:
    """What is remembered of one job, as long as it exists and does not rest at its end."""

    parsed: Parsed | None = None
    # Pods of the current attempt that are gone, as they were last seen, but for workers that we deleted ourselves.
    vanished: dict[str, PodView] = field(default_factory=dict)
    # Uids of pods that we deleted and that are not gone yet.
    released: set[str] = field(default_factory=set)
    # Attempts that cannot go on, and why.
    unusable: dict[int, str] = field(default_factory=dict)
    refusal: Refusal | None = None
    failing_since: float | None = None
    written_at: float = 0.0

    def forget_replaced(self, memory: Memory) -> None:
        """Drop pods whose successors stand in the status: nobody asks any more how they ended."""
        self.vanished = {name: pod for name, pod in self.vanished.items() if not _is_replaced(pod, memory)}

    def forget_attempts(self) -> None:
        """Another attempt has begun: names carry the attempt, and those of an earlier one say nothing any more."""
        self.vanished.clear()
        self.unusable.clear()


class Notebook:
    """The notes of all jobs, by uid, so that another one of the same name begins anew."""

    def __init__(self, jobs: Store, views: PodViews, *, clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._views = views
        self._clock = clock
        self._notes: dict[str, Notes] = {}

    def of(self, uid: str) -> Notes:
        """The notes of a job, which are empty at first."""
        return self._notes.setdefault(uid, Notes())

    def all(self) -> list[Notes]:
        """Those of every job of which there are any."""
        return list(self._notes.values())

    def forget(self, uid: str) -> None:
        """The job is gone, or rests at its end."""
        self._notes.pop(uid, None)

    def on_job(self, old: Object | None, new: Object | None) -> None:
        """A job has changed."""
        # A list may show another job in the place of one whose deletion was not seen.
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self.forget(old["metadata"]["uid"])
        notes = self._notes.get(new["metadata"]["uid"]) if new is not None else None
        if new is None or notes is None or not notes.vanished:
            return
        memory = remember(new.get("status") or {})
        notes.forget_replaced(memory)
        number = memory.last.number if memory.last is not None else 0
        if memory.has_ended:
            number += 1
        notes.vanished = {name: pod for name, pod in notes.vanished.items() if pod.attempt >= number}

    def on_pod_gone(self, pod: Object, *, unseen: bool) -> None:
        """A pod is gone: how it was last seen tells why. Of a worker that we deleted ourselves nobody asks."""
        view = self._views.view(pod, now=self._clock())
        for owner in owner_uids(pod):
            if view is None:
                continue
            is_asked_for = self._is_asked_for(view, pod, owner)
            notes = self.of(owner) if is_asked_for else self._notes.get(owner, Notes())
            if is_asked_for and (view.is_head or view.uid not in notes.released):
                notes.vanished[view.name] = replace(view, end_unseen=unseen)
            notes.released.discard(view.uid)
        self._views.forget(pod)

    def _is_asked_for(self, view: PodView, pod: Object, job_uid: str) -> bool:
        """Whether it matters how a pod ended: its job is at work, and without its successor yet."""
        labels = pod["metadata"].get("labels") or {}
        job = self._jobs.get(pod["metadata"].get("namespace", ""), labels.get(names.LABEL_JOB, ""))
        if job is None or job["metadata"]["uid"] != job_uid:
            return False
        status = job.get("status") or {}
        persisted = (status.get("incarnations") or {}).get(view.slot.key, 0) if view.slot is not None else 0
        is_latest = view.attempt >= (status.get("attempt") or 0) and view.incarnation >= persisted
        return is_latest and not status.get("finishedAt")


def _is_replaced(pod: PodView, memory: Memory) -> bool:
    """Whether its successor stands in the status, so that nobody asks any more how `pod` ended."""
    return pod.slot is not None and pod.incarnation < memory.incarnations.get(pod.slot.key, 0)
