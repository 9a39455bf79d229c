"""The controller of ScalingJobs: load, observe, decide, act, write the status once, tell.

It reads caches only. What it remembers between reconciles (of each job in its `_Notes`, besides views of pods) is
disposable; an operator that restarts learns all of it anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from scaling_api import API_VERSION, PLURAL, names
from scaling_api.reasons import ConditionType, Failure
from scaling_api.status import OPERATOR_MANAGER

from .decide import Decision, Job, Observed, decide
from .decide.conditions import accepted, merged
from .decide.status import FIELDS, patch, remember, render, without_left_over
from .decide.types import Action, CreateWorkers, DeleteAttempt, DeleteJob, DeletePods, EnsureAttempt, Memory, PodView
from .events import EventRecorder
from .executor import AttemptGoneError, Executor, RefusedError
from .log_fields import job_fields
from .mirrors import Mirrors
from .names_taken import NameTakenError
from .observe import PodViews, attempts_of
from .ownership import Target, owner_uids
from .refusals import Refusal, refused
from .runtime.client import ApiClient, resource_path
from .runtime.controller import Controller, Result
from .runtime.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    InvalidError,
    NotFoundError,
    ServerUnavailableError,
)
from .runtime.objects import Key, Object, key_of
from .runtime.store import Change
from .runtime.tracker import WriteTracker
from .runtime.workqueue import WorkQueue
from .settings import Settings
from .specs import Parsed, parse

logger = logging.getLogger(__name__)

BY_OWNER = "owner"
# Pods of a job start together and each changes several times: their events within this time are one reconcile.
SETTLE_S = 0.1
# Counters in the status (how many workers are ready) may lag by so much.
COUNTERS_EVERY_S = 10.0
# What an earlier job of the name has left over goes within seconds, or a driver's grace period.
LEFT_OVER_PAUSE_S = 2.0
# A server that fails for so long (a webhook that is down, a full etcd) is shown to people, like one that refuses.
FAILING_SHOWN_AFTER_S = 5.0
# Of the time that a reconcile has: the rest is for the status, which shows what takes so long. More than one request's.
ACT_LIMIT_S = 40.0


@dataclass(slots=True)
class _Notes:
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
        self._client = client
        self._mirrors = mirrors
        self._recorder = recorder
        self._clock = clock
        self._random_unit = random_unit
        self._workers = settings.workers
        self._tracker: WriteTracker[Key] = WriteTracker()
        self._executor = Executor(client, mirrors, self._tracker, settings, ca_bundle=ca_bundle)
        self._queue: WorkQueue[Key] = WorkQueue("scalingjob")
        self._views = PodViews()
        # By the job's uid, so that another one of the same name begins anew.
        self._notes: dict[str, _Notes] = {}

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
        notes = self._notes.setdefault(manifest["metadata"]["uid"], _Notes())
        parsed = notes.parsed = parse(manifest, notes.parsed)
        if parsed.job is None:
            return await self._reject(key, manifest, parsed.invalid or "")
        job = Job(key.namespace, key.name, parsed.job.spec, parsed.invalid)
        status = manifest.get("status") or {}
        now = self._clock()
        observed = self._observe(manifest, notes, parsed, status, now)
        decision = decide(job, observed, status, now=now)
        result = await self._carry_out(Target(key, manifest, parsed.job), notes, decision, status, now)
        if observed.memory.has_ended and not decision.actions:
            self._notes.pop(manifest["metadata"]["uid"], None)
        return result

    async def _carry_out(self, target: Target, notes: _Notes, decision: Decision, status: Object, now: float) -> Result:
        try:
            refused_s = await self._act(target, notes, decision.actions, now)
        except ApiError:
            # What was decided holds, and is shown, whatever becomes of the actions.
            await self._write_status(target, notes, decision, status, now)
            raise
        written_s = await self._write_status(target, notes, decision, status, now)
        return Result(_sooner(decision.look_again_s, refused_s, written_s))

    async def _act(self, target: Target, notes: _Notes, actions: Sequence[Action], now: float) -> float | None:
        """Carry out `actions`; seconds until what was refused may be tried again, if something was.

        Raises ApiError for what may well go better in a moment.
        """
        key, refusal = target.key, notes.refusal
        notes.released.update(uid for action in actions if isinstance(action, DeletePods) for _, uid in action.pods)
        if refusal is not None and now < refusal.retry_at:
            deletions = [action for action in actions if not isinstance(action, EnsureAttempt | CreateWorkers)]
            await self._run(target, deletions)
            return refusal.retry_at - now
        failing_since, notes.failing_since = notes.failing_since, None
        try:
            complete = await self._run(target, actions)
        except RefusedError as error:
            return self._refused(key, notes, str(error))
        except NameTakenError as error:
            return self._refused(key, notes, str(error), pause_s=LEFT_OVER_PAUSE_S if error.goes_by_itself else None)
        except AttemptGoneError as error:
            notes.unusable = {error.attempt: str(error)}
            self._queue.add(key)
            return None
        except (ConflictError, AlreadyExistsError):
            raise
        except ApiError as error:
            notes.failing_since = failing_since if failing_since is not None else now
            if self._clock() - notes.failing_since < FAILING_SHOWN_AFTER_S:
                raise
            sentence = f"The API server keeps failing and is asked again: {error}"
            return self._refused(key, notes, sentence, least_s=error.retry_after_s or 0.0)
        notes.refusal = None
        # What was refused is no longer, which the next look shows in the status.
        if refusal is not None or not complete:
            self._queue.add(key)
        return None

    async def _run(self, target: Target, actions: Sequence[Action]) -> bool:
        """Carry out `actions` in order; False when something was left for the next reconcile.

        As Executor.run, but for ACT_LIMIT_S at most: ServerUnavailableError then names what took so long.
        """
        complete, at_work = True, ""
        try:
            async with asyncio.timeout(ACT_LIMIT_S):
                for action in actions:
                    at_work = _in_words(action)
                    complete = await self._executor.run(target, action) and complete
        except TimeoutError as error:
            sentence = f"{at_work} had not come to an end after {ACT_LIMIT_S:.0f} s"
            raise ServerUnavailableError(0, "Timeout", sentence) from error
        return complete

    async def _write_status(
        self, target: Target, notes: _Notes, decision: Decision, status: Object, now: float
    ) -> float | None:
        """Write what changed, then tell; seconds to wait when it can be written later."""
        changes = patch(status, decision.status or {})
        if not changes:
            return None
        key = target.key
        if not decision.urgent:
            wait_s = notes.written_at + COUNTERS_EVERY_S - now
            if wait_s > 0:
                return wait_s
        try:
            try:
                written = await self._patch_status(key, target.manifest, changes)
            except InvalidError as error:
                own = without_left_over(changes)
                if own == changes:
                    raise
                # A driver's last words must not keep its job from ending.
                logger.warning("what the driver left in its termination message cannot be stored: %s", error.message)
                written = await self._patch_status(key, target.manifest, own)
        except NotFoundError:
            return None
        notes.written_at = now
        self._tracker.record(key, self._mirrors.jobs, written)
        begun = {"attempt": changes["attempt"]} if "attempt" in changes else {}
        for event in decision.events:
            logger.info("%s: %s", event.reason, event.message, extra=begun)
            self._recorder.record(target.manifest, event.type, event.reason, event.message)
        if "attempt" in changes:  # names carry the attempt: those of an earlier one say nothing any more
            notes.vanished.clear()
            notes.unusable.clear()
        return None

    async def _patch_status(self, key: Key, manifest: Object, changes: Object) -> Object:
        """Merge `changes` into the status if the job is still what was looked at; the metadata of what is stored."""
        body = {"metadata": {"resourceVersion": manifest["metadata"]["resourceVersion"]}, "status": changes}
        path = resource_path(API_VERSION, PLURAL, *key, subresource="status")
        return await self._client.patch(path, body, params={"fieldManager": OPERATOR_MANAGER}, metadata_only=True)

    async def _reject(self, key: Key, manifest: Object, sentence: str) -> Result:
        """The models cannot read the spec: say so, and leave alone what may be running."""
        status = manifest.get("status") or {}
        memory = remember(status)
        verdicts = {ConditionType.ACCEPTED: accepted(sentence)}
        memory = replace(memory, conditions=merged(memory.conditions, verdicts, now=self._clock()))
        generation = manifest["metadata"].get("generation", 0)
        kept = {name: status.get(name) for name in FIELDS} | {"phase": status.get("phase") or "Pending"}
        rendered = render(memory, phase="Pending", generation=generation, groups=None, workers=None)
        changes = patch(status, {**kept, **{name: rendered[name] for name in ("conditions", "observedGeneration")}})
        if changes:
            written = await self._patch_status(key, manifest, changes)
            self._tracker.record(key, self._mirrors.jobs, written)
            self._recorder.record(manifest, "Warning", Failure.INVALID_SPEC, sentence)
        return Result()

    def _observe(self, manifest: Object, notes: _Notes, parsed: Parsed, status: Object, now: float) -> Observed:
        uid, mirrors, memory = manifest["metadata"]["uid"], self._mirrors, remember(status)
        notes.vanished = {name: pod for name, pod in notes.vanished.items() if not _is_replaced(pod, memory)}
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

    def _refused(
        self, key: Key, notes: _Notes, sentence: str, *, pause_s: float | None = None, least_s: float = 0.0
    ) -> float:
        """Remember that the server refuses; seconds until it is asked again."""
        known, now = notes.refusal, self._clock()
        notes.refusal = refused(known, sentence, now=now, unit=self._random_unit(), pause_s=pause_s, least_s=least_s)
        if known is None or notes.refusal.sentence != known.sentence:
            logger.warning("%s", sentence)
            self._queue.add(key)  # the next look shows it in the status
        return notes.refusal.retry_at - now

    def _on_job(self, change: Change, old: Object | None, new: Object | None) -> None:
        found = new or old
        assert found is not None
        # A list may show another job in the place of one whose deletion was not seen.
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._notes.pop(old["metadata"]["uid"], None)
        if new is not None:
            self._forget_answered(new)
        self._queue.add(key_of(found))

    def _forget_answered(self, job: Object) -> None:
        """Drop what was noted of pods that nobody asks about any more: a standby, which looks at no job, keeps none."""
        notes = self._notes.get(job["metadata"]["uid"])
        if notes is None or not notes.vanished:
            return
        memory = remember(job.get("status") or {})
        number = memory.last.number if memory.last is not None else 0
        notes.vanished = {
            name: pod
            for name, pod in notes.vanished.items()
            if pod.attempt >= number and not memory.has_ended and not _is_replaced(pod, memory)
        }

    def _on_pod(self, change: Change, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            self._note_vanished(old, unseen=change == "MISSED")
            self._views.forget(old)
        self._on_owned(change, old, new)

    def _note_vanished(self, pod: Object, *, unseen: bool) -> None:
        """A pod is gone: how it was last seen tells why. Of a worker that we deleted ourselves nobody asks."""
        view = self._views.view(pod, now=self._clock())
        for owner in owner_uids(pod):
            if view is None or not self._is_at_work(pod, owner):
                continue
            notes = self._notes.setdefault(owner, _Notes())
            if view.is_head or view.uid not in notes.released:
                notes.vanished[view.name] = replace(view, end_unseen=unseen)
            notes.released.discard(view.uid)

    def _on_owned(self, change: Change, old: Object | None, new: Object | None) -> None:
        found = new or old
        assert found is not None
        name = (found["metadata"].get("labels") or {}).get(names.LABEL_JOB)
        if name:
            self._queue.add_after(Key(found["metadata"].get("namespace", ""), name), SETTLE_S)

    def _is_at_work(self, pod: Object, job_uid: str) -> bool:
        """Whether the pod's job still is at work: when it goes or ends, so do its pods, and nobody asks why."""
        labels = pod["metadata"].get("labels") or {}
        job = self._mirrors.jobs.get(pod["metadata"].get("namespace", ""), labels.get(names.LABEL_JOB, ""))
        if job is None or job["metadata"]["uid"] != job_uid:
            return False
        return not (job.get("status") or {}).get("finishedAt")


def _is_replaced(pod: PodView, memory: Memory) -> bool:
    """Whether its successor stands in the status, so that nobody asks any more how `pod` ended."""
    return pod.slot is not None and pod.incarnation < memory.incarnations.get(pod.slot.key, 0)


def _in_words(action: Action) -> str:
    """What carrying out `action` is."""
    match action:
        case EnsureAttempt():
            return f"creating the head, Service and NetworkPolicy of attempt {action.attempt}"
        case CreateWorkers():
            return f"creating worker pods of attempt {action.attempt}"
        case DeletePods():
            return "deleting pods"
        case DeleteAttempt():
            return f"deleting Secret, Service and NetworkPolicy of attempt {action.attempt}"
        case DeleteJob():
            return "deleting the job"
        case _:
            assert_never(action)


def _sooner(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)
