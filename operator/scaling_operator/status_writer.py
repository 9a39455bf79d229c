"""Writes the status of a job, once per look at it, and then tells what happened."""

from __future__ import annotations

import logging
from dataclasses import replace

from scaling_api import API_VERSION, PLURAL
from scaling_api.reasons import ConditionType, Failure
from scaling_api.status import OPERATOR_MANAGER

from .decide import Decision
from .decide.conditions import accepted, merged
from .decide.status import FIELDS, patch, remember, render, without_left_over
from .events import EventRecorder
from .notes import Notes
from .ownership import Target
from .runtime.client import ApiClient, resource_path
from .runtime.errors import InvalidError, NotFoundError
from .runtime.objects import Key, Object
from .runtime.store import Store
from .runtime.tracker import WriteTracker

logger = logging.getLogger(__name__)

# Counters in the status (how many workers are ready) may lag by so much.
COUNTERS_EVERY_S = 10.0


class StatusWriter:
    """Patches the leader's fields of what `jobs` shows, each time with its version as a precondition."""

    def __init__(self, client: ApiClient, jobs: Store, tracker: WriteTracker[Key], recorder: EventRecorder) -> None:
        self._client = client
        self._jobs = jobs
        self._tracker = tracker
        self._recorder = recorder

    async def write(self, target: Target, notes: Notes, decision: Decision, status: Object, now: float) -> float | None:
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
                written = await self._patch(key, target.manifest, changes)
            except InvalidError as error:
                own = without_left_over(changes)
                if own == changes:
                    raise
                # A driver's last words must not keep its job from ending.
                logger.warning("what the driver left in its termination message cannot be stored: %s", error.message)
                written = await self._patch(key, target.manifest, own)
        except NotFoundError:
            return None
        notes.written_at = now
        self._tracker.record(key, self._jobs, written)
        begun = {"attempt": changes["attempt"]} if "attempt" in changes else {}
        for event in decision.events:
            logger.info("%s: %s", event.reason, event.message, extra=begun)
            self._recorder.record(target.manifest, event.type, event.reason, event.message)
        if "attempt" in changes:
            notes.forget_attempts()
        return None

    async def reject(self, key: Key, manifest: Object, sentence: str, *, now: float) -> None:
        """The models cannot read the spec: say so, and leave alone what may be running."""
        status = manifest.get("status") or {}
        memory = remember(status)
        verdicts = {ConditionType.ACCEPTED: accepted(sentence)}
        memory = replace(memory, conditions=merged(memory.conditions, verdicts, now=now))
        generation = manifest["metadata"].get("generation", 0)
        kept = {name: status.get(name) for name in FIELDS} | {"phase": status.get("phase") or "Pending"}
        rendered = render(memory, phase="Pending", generation=generation, groups=None, workers=None)
        changes = patch(status, {**kept, **{name: rendered[name] for name in ("conditions", "observedGeneration")}})
        if changes:
            written = await self._patch(key, manifest, changes)
            self._tracker.record(key, self._jobs, written)
            self._recorder.record(manifest, "Warning", Failure.INVALID_SPEC, sentence)

    async def _patch(self, key: Key, manifest: Object, changes: Object) -> Object:
        """Merge `changes` into the status if the job is still what was looked at; the metadata of what is stored."""
        body = {"metadata": {"resourceVersion": manifest["metadata"]["resourceVersion"]}, "status": changes}
        path = resource_path(API_VERSION, PLURAL, *key, subresource="status")
        return await self._client.patch(path, body, params={"fieldManager": OPERATOR_MANAGER}, metadata_only=True)
