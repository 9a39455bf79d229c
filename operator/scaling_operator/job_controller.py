"""The controller of ScalingJobs: load, observe, decide, act, write the status once, tell.

It reads caches only. What it remembers between reconciles (its notes, and views of pods) is disposable; an operator
that restarts learns all of it anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from scaling_api import names

from .action_runner import ActionRunner
from .decide import Decision, Job, Observed, decide
from .decide.status import remember
from .events import EventRecorder
from .executor import Executor
from .log_fields import job_fields
from .mirrors import Mirrors
from .notes import Notebook, Notes
from .observe import PodViews, attempts_of
from .ownership import Target, owner_uids
from .runtime.client import ApiClient
from .runtime.controller import Controller, Result
from .runtime.errors import ApiError
from .runtime.objects import Key, Object, key_of
from .runtime.store import Change
from .runtime.tracker import WriteTracker
from .runtime.workqueue import WorkQueue
from .settings import Settings
from .specs import Parsed, parse
from .status_writer import StatusWriter

BY_OWNER = "owner"
# Pods of a job start together and each changes several times: their events within this time are one reconcile.
SETTLE_S = 0.1


class JobController:
    """Reconciles ScalingJobs. `build` connects it to the caches and gives the controller to run."""

    def __init__(
        self,
        client: ApiClient,
        mirrors: Mirrors,
        recorder: EventRecorder,
        settings: Settings,
        *,
        ca_bundle: Callable[[], str],
        clock: Callable[[], float] = time.time,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self._mirrors = mirrors
        self._clock = clock
        self._workers = settings.workers
        self._tracker: WriteTracker[Key] = WriteTracker()
        self._queue: WorkQueue[Key] = WorkQueue("scalingjob")
        self._runner = ActionRunner(
            Executor(client, mirrors, self._tracker, settings, ca_bundle=ca_bundle),
            look_again=self._queue.add,
            clock=clock,
            random_unit=random_unit,
        )
        self._writer = StatusWriter(client, mirrors.jobs, self._tracker, recorder)
        self._views = PodViews()
        self._notebook = Notebook(mirrors.jobs, self._views, clock=clock)

    def build(self) -> Controller:
        """Index the caches, listen to them, and make the controller."""
        mirrors = self._mirrors
        for store in (mirrors.pods, mirrors.services, mirrors.network_policies):
            store.add_index(BY_OWNER, owner_uids)
        mirrors.jobs.add_handler(self._on_job)
        mirrors.pods.add_handler(self._on_pod)
        mirrors.services.add_handler(self._on_owned)
        mirrors.network_policies.add_handler(self._on_owned)
        return Controller(
            "scalingjob",
            self.reconcile,
            self._queue,
            workers=self._workers,
            tracker=self._tracker,
            log_fields=lambda key: job_fields(mirrors.jobs, key),
        )

    async def reconcile(self, key: Key) -> Result:
        """Look at one job and do what should be done now."""
        manifest = self._mirrors.jobs.get(*key)
        if manifest is None:
            self._tracker.forget(key)
            return Result()
        if "deletionTimestamp" in manifest["metadata"]:
            return Result()  # the garbage collector does the rest
        # Kept until the end of this look even if the job goes meanwhile.
        notes = self._notebook.of(manifest["metadata"]["uid"])
        parsed = notes.parsed = parse(manifest, notes.parsed)
        if parsed.job is None:
            await self._writer.reject(key, manifest, parsed.invalid or "", now=self._clock())
            return Result()
        job = Job(key.namespace, key.name, parsed.job.spec, parsed.invalid)
        status = manifest.get("status") or {}
        now = self._clock()
        observed = self._observe(manifest, notes, parsed, status, now)
        decision = decide(job, observed, status, now=now)
        result = await self._carry_out(Target(key, manifest, parsed.job), notes, decision, status, now)
        if observed.memory.has_ended and not decision.actions:
            self._notebook.forget(manifest["metadata"]["uid"])
        return result

    async def _carry_out(self, target: Target, notes: Notes, decision: Decision, status: Object, now: float) -> Result:
        try:
            refused_s = await self._runner.run(target, notes, decision.actions, now)
        except ApiError:
            # What was decided holds, and is shown, whatever becomes of the actions.
            await self._writer.write(target, notes, decision, status, now)
            raise
        written_s = await self._writer.write(target, notes, decision, status, now)
        return Result(_sooner(decision.look_again_s, refused_s, written_s))

    def _observe(self, manifest: Object, notes: Notes, parsed: Parsed, status: Object, now: float) -> Observed:
        uid, mirrors, memory = manifest["metadata"]["uid"], self._mirrors, remember(status)
        notes.forget_replaced(memory)
        found = (self._views.view(pod, now=now) for pod in mirrors.pods.by_index(BY_OWNER, uid))
        views = tuple(view for view in found if view is not None)
        # The cache shows our own writes: what does not terminate was not deleted, as the request failed.
        notes.released.difference_update(view.uid for view in views if not view.terminating)
        return Observed(
            generation=manifest["metadata"].get("generation", 0),
            memory=memory,
            digest=parsed.digest,
            pods=views,
            vanished=notes.vanished,
            released=notes.released,
            services=attempts_of(mirrors.services.by_index(BY_OWNER, uid)),
            policies=attempts_of(mirrors.network_policies.by_index(BY_OWNER, uid)),
            refusal=notes.refusal.sentence if notes.refusal is not None else None,
            finished=status.get("reportedAttempt") if "result" in status else None,
            unusable=notes.unusable,
        )

    def _on_job(self, change: Change, old: Object | None, new: Object | None) -> None:
        self._notebook.on_job(old, new)
        found = new or old
        assert found is not None
        self._queue.add(key_of(found))

    def _on_pod(self, change: Change, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            self._notebook.on_pod_gone(old, unseen=change == "MISSED")
        self._on_owned(change, old, new)

    def _on_owned(self, change: Change, old: Object | None, new: Object | None) -> None:
        found = new or old
        assert found is not None
        name = (found["metadata"].get("labels") or {}).get(names.LABEL_JOB)
        if name:
            self._queue.add_after(Key(found["metadata"].get("namespace", ""), name), SETTLE_S)


def _sooner(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)
