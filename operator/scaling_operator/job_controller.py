"""The controller of ScalingJobs: load, observe, decide, act, write the status once, tell.

It reads caches only. What it remembers between reconciles is disposable: parsed specs, views of pods, pods that
vanished, and what the API server refused; an operator that restarts learns all of it anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from scaling_api import API_VERSION, KIND, PLURAL, names
from scaling_api.base import violations
from scaling_api.problems import dotted
from scaling_api.reasons import ConditionType, Failure
from scaling_api.spec import ScalingJob
from scaling_api.status import OPERATOR_MANAGER

from .decide import Decision, Job, Observed, decide
from .decide.conditions import accepted, merged
from .decide.status import FIELDS, patch, remember, render
from .decide.types import Action, CreateWorkers, EnsureAttempt, PodView
from .events import EventRecorder
from .executor import AttemptGoneError, Executor, NameTakenError, RefusedError, Target
from .log_fields import job_fields
from .mirrors import Mirrors
from .observe import PodViews, attempts_of, spec_digest
from .resources.overrides import check_overrides
from .runtime.client import ApiClient, resource_path
from .runtime.controller import Controller, Result
from .runtime.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from .runtime.objects import Key, Object, key_of
from .runtime.store import Change
from .runtime.tracker import WriteTracker
from .runtime.workqueue import WorkQueue
from .settings import Settings

logger = logging.getLogger(__name__)

BY_OWNER = "owner"
# Pods of a job start together and each changes several times: their events within this time are one reconcile.
SETTLE_S = 0.1
# Counters in the status (how many workers are ready) may lag by so much.
COUNTERS_EVERY_S = 10.0
# What was refused is tried again after a pause that doubles; a name is free again within seconds.
FIRST_REFUSED_PAUSE_S = 5.0
LONGEST_REFUSED_PAUSE_S = 60.0
NAME_TAKEN_PAUSE_S = 2.0
# A server that fails for so long (a webhook that is down, a full etcd) is shown to people, like one that refuses.
FAILING_SHOWN_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A manifest's spec in the form that policies read; `job` is None when the models refuse it."""

    version: tuple[str, int]
    job: ScalingJob | None
    invalid: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What stands against creating something, and when to try again."""

    sentence: str
    retry_at: float
    pause_s: float


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
    ) -> None:
        self._client = client
        self._mirrors = mirrors
        self._recorder = recorder
        self._clock = clock
        self._workers = settings.workers
        self._tracker: WriteTracker[Key] = WriteTracker()
        self._executor = Executor(client, mirrors, self._tracker, settings, ca_bundle=ca_bundle)
        self._queue: WorkQueue[Key] = WorkQueue("scalingjob")
        self._views = PodViews()
        self._parsed: dict[Key, _Parsed] = {}
        # By the job's uid: pods that are gone as they were last seen, and attempts that cannot go on.
        self._vanished: dict[str, dict[str, PodView]] = {}
        self._unusable: dict[str, dict[int, str]] = {}
        self._refusals: dict[Key, _Refusal] = {}
        self._failing_since: dict[Key, float] = {}
        self._written_at: dict[Key, float] = {}

    def build(self) -> Controller:
        """Index the caches, listen to them, and make the controller."""
        mirrors = self._mirrors
        for store in (mirrors.pods, mirrors.services, mirrors.network_policies):
            store.add_index(BY_OWNER, _owner_uids)
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
            self._forget(key)
            return Result()
        if "deletionTimestamp" in manifest["metadata"]:
            return Result()  # the garbage collector does the rest
        parsed = self._parse(key, manifest)
        if parsed.job is None:
            return await self._reject(key, manifest, parsed.invalid or "")
        job = Job(key.namespace, key.name, parsed.job.spec, parsed.invalid)
        status = manifest.get("status") or {}
        observed = self._observe(key, manifest, parsed, status)
        now = self._clock()
        decision = decide(job, observed, status, now=now)
        return await self._carry_out(Target(key, manifest, parsed.job), decision, status, now)

    async def _carry_out(self, target: Target, decision: Decision, status: Object, now: float) -> Result:
        try:
            refused_s = await self._act(target, decision.actions, now)
        except ApiError:
            # What was decided holds, and is shown, whatever becomes of the actions.
            await self._write_status(target, decision, status, now)
            raise
        written_s = await self._write_status(target, decision, status, now)
        return Result(_sooner(decision.look_again_s, refused_s, written_s))

    async def _act(self, target: Target, actions: Sequence[Action], now: float) -> float | None:
        """Carry out `actions`; seconds until what was refused may be tried again, if something was.

        Raises ApiError for what may well go better in a moment.
        """
        key = target.key
        refusal = self._refusals.get(key)
        if refusal is not None and now < refusal.retry_at:
            deletions = [action for action in actions if not isinstance(action, EnsureAttempt | CreateWorkers)]
            await self._executor.run(target, deletions)
            return refusal.retry_at - now
        try:
            complete = await self._executor.run(target, actions)
        except RefusedError as error:
            pause_s = _next_pause_s(refusal)
            return self._refused(key, _Refusal(str(error), now + pause_s, pause_s))
        except NameTakenError as error:
            return self._refused(key, _Refusal(str(error), now + NAME_TAKEN_PAUSE_S, NAME_TAKEN_PAUSE_S))
        except AttemptGoneError as error:
            self._unusable[target.manifest["metadata"]["uid"]] = {error.attempt: str(error)}
            self._queue.add(key)
            return None
        except (ConflictError, AlreadyExistsError):
            raise
        except ApiError as error:
            if now - self._failing_since.setdefault(key, now) < FAILING_SHOWN_AFTER_S:
                raise
            pause_s = max(_next_pause_s(refusal), error.retry_after_s or 0.0)
            sentence = f"The API server keeps failing and is asked again: {error}"
            return self._refused(key, _Refusal(sentence, now + pause_s, pause_s))
        self._failing_since.pop(key, None)
        # What was refused is no longer, which the next look shows in the status.
        if self._refusals.pop(key, None) is not None or not complete:
            self._queue.add(key)
        return None

    async def _write_status(self, target: Target, decision: Decision, status: Object, now: float) -> float | None:
        """Write what changed, then tell; seconds to wait when it can be written later."""
        changes = patch(status, decision.status or {})
        if not changes:
            return None
        key = target.key
        if not decision.urgent:
            wait_s = self._written_at.get(key, 0.0) + COUNTERS_EVERY_S - now
            if wait_s > 0:
                return wait_s
        body = {"metadata": {"resourceVersion": target.manifest["metadata"]["resourceVersion"]}, "status": changes}
        path = resource_path(API_VERSION, PLURAL, *key, subresource="status")
        try:
            written = await self._client.patch(
                path, body, params={"fieldManager": OPERATOR_MANAGER}, metadata_only=True
            )
        except NotFoundError:
            return None
        self._written_at[key] = now
        self._tracker.record(key, self._mirrors.jobs, written)
        begun = {"attempt": changes["attempt"]} if "attempt" in changes else {}
        for event in decision.events:
            logger.info("%s: %s", event.reason, event.message, extra=begun)
            self._recorder.record(target.manifest, event.type, event.reason, event.message)
        if "attempt" in changes:  # names carry the attempt: those of an earlier one say nothing any more
            self._vanished.pop(target.manifest["metadata"]["uid"], None)
            self._unusable.pop(target.manifest["metadata"]["uid"], None)
        return None

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
            path = resource_path(API_VERSION, PLURAL, *key, subresource="status")
            written = await self._client.patch(
                path, {"status": changes}, params={"fieldManager": OPERATOR_MANAGER}, metadata_only=True
            )
            self._tracker.record(key, self._mirrors.jobs, written)
            self._recorder.record(manifest, "Warning", Failure.INVALID_SPEC, sentence)
        return Result()

    def _observe(self, key: Key, manifest: Object, parsed: _Parsed, status: Object) -> Observed:
        uid, mirrors = manifest["metadata"]["uid"], self._mirrors
        views = (self._views.view(pod) for pod in mirrors.pods.by_index(BY_OWNER, uid))
        return Observed(
            generation=manifest["metadata"].get("generation", 0),
            memory=remember(status),
            digest=parsed.digest,
            pods=tuple(view for view in views if view is not None),
            vanished=self._vanished.get(uid, {}),
            services=attempts_of(mirrors.services.by_index(BY_OWNER, uid)),
            policies=attempts_of(mirrors.network_policies.by_index(BY_OWNER, uid)),
            refusal=refusal.sentence if (refusal := self._refusals.get(key)) is not None else None,
            unusable=self._unusable.get(uid, {}),
        )

    def _parse(self, key: Key, manifest: Object) -> _Parsed:
        metadata = manifest["metadata"]
        version = (metadata["uid"], metadata.get("generation", 0))
        known = self._parsed.get(key)
        if known is not None and known.version == version:
            return known
        job, invalid = _read(manifest)
        parsed = _Parsed(version, job, invalid, spec_digest(job.spec) if job is not None else "")
        self._parsed[key] = parsed
        return parsed

    def _refused(self, key: Key, refusal: _Refusal) -> float:
        known = self._refusals.get(key)
        self._refusals[key] = refusal
        if known is None or known.sentence != refusal.sentence:
            logger.warning("%s", refusal.sentence)
            self._queue.add(key)  # the next look shows it in the status
        return refusal.pause_s

    def _on_job(self, change: Change, old: Object | None, new: Object | None) -> None:
        found = new or old
        assert found is not None
        if new is None:
            self._vanished.pop(found["metadata"]["uid"], None)
            self._unusable.pop(found["metadata"]["uid"], None)
        self._queue.add(key_of(found))

    def _on_pod(self, change: Change, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            view = self._views.view(old)
            self._views.forget(old)
            for uid in _owner_uids(old):
                if view is not None and self._exists(old, uid):
                    self._vanished.setdefault(uid, {})[view.name] = view
        self._on_owned(change, old, new)

    def _on_owned(self, change: Change, old: Object | None, new: Object | None) -> None:
        found = new or old
        assert found is not None
        name = (found["metadata"].get("labels") or {}).get(names.LABEL_JOB)
        if name:
            self._queue.add_after(Key(found["metadata"].get("namespace", ""), name), SETTLE_S)

    def _exists(self, pod: Object, job_uid: str) -> bool:
        """Whether the pod's job still does: when it goes, so do its pods, and there is nothing to remember."""
        labels = pod["metadata"].get("labels") or {}
        job = self._mirrors.jobs.get(pod["metadata"].get("namespace", ""), labels.get(names.LABEL_JOB, ""))
        return job is not None and job["metadata"]["uid"] == job_uid

    def _forget(self, key: Key) -> None:
        self._parsed.pop(key, None)
        self._refusals.pop(key, None)
        self._failing_since.pop(key, None)
        self._written_at.pop(key, None)
        self._tracker.forget(key)


def _read(manifest: Object) -> tuple[ScalingJob | None, str | None]:
    """The job, and a sentence when it cannot be run."""
    try:
        job = ScalingJob.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"{dotted(first['loc'])}: {first['msg']}"
    broken = [f"{dotted(found.path)}: {found.message}" for found in violations(job)]
    problems = broken + check_overrides(job.spec.cluster.pod_overrides)
    return job, "; ".join(problems) or None


def _owner_uids(owned: Object) -> list[str]:
    """The uids of the jobs that own an object: one, or none for an object that only looks like ours."""
    owners = owned["metadata"].get("ownerReferences") or ()
    return [owner["uid"] for owner in owners if owner.get("controller") and owner["kind"] == KIND]


def _next_pause_s(refusal: _Refusal | None) -> float:
    return min(LONGEST_REFUSED_PAUSE_S, 2 * refusal.pause_s) if refusal is not None else FIRST_REFUSED_PAUSE_S


def _sooner(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)
