"""Carries out decisions: creates and deletes, and notes every write for the reconcile that follows.

"Already exists" on creation is success when the object is this job's: names are derived, so an object of ours under
that name is the one that was asked for. (For one of somebody else's see `names_taken`.) Worker pods are created in
batches that double (1, 2, 4, …), so that what the API server refuses is refused once and not five hundred times, and
at most MAX_CREATES of them per call, so that a large job does not keep a worker of the queue from small ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import assert_never

from scaling_api.names import WorkerSlot

from .decide.types import Action, CreateWorkers, DeleteAttempt, DeleteJob, DeletePods, EnsureAttempt
from .deletion import Deleter
from .kinds import NETWORK_POLICY, POD, SECRET, SERVICE, Kind
from .mirrors import Mirrors
from .names_taken import Names, NameTakenError
from .ownership import Target
from .resources.attempt import AttemptObjects, render_attempt, worker_pod
from .resources.service_account import build_service_account
from .runtime.client import ApiClient, resource_path
from .runtime.errors import AlreadyExistsError, ApiError, ForbiddenError, InvalidError
from .runtime.objects import Key, Object
from .runtime.tracker import WriteTracker
from .settings import Settings
from .templates import AttemptGoneError, TemplateMemory
from .together import all_done

MAX_CREATES = 128
LARGEST_BATCH = 32
# The API server's word for a namespace that terminates.
_NAMESPACE_GOES = "NamespaceTerminating"


class RefusedError(Exception):
    """The API server refuses an object (quota, admission, Pod Security): only a person can change that."""


class Executor:
    """`ca_bundle` gives the certificates that drivers shall trust."""

    def __init__(
        self,
        client: ApiClient,
        mirrors: Mirrors,
        tracker: WriteTracker[Key],
        settings: Settings,
        *,
        ca_bundle: Callable[[], str],
    ) -> None:
        self._client = client
        self._mirrors = mirrors
        self._tracker = tracker
        self._settings = settings
        self._ca_bundle = ca_bundle
        self._deleter = Deleter(client, mirrors, tracker)
        self._names = Names(client, mirrors, self._deleter)
        self._templates = TemplateMemory(client)
        self._accounts: set[str] = set()

    async def run(self, target: Target, action: Action) -> bool:
        """Do what `action` says. False when some of it was left for the next reconcile.

        Raises RefusedError, NameTakenError, AttemptGoneError, or another ApiError.
        """
        match action:
            case EnsureAttempt():
                await self._ensure(target, action)
            case CreateWorkers():
                return await self._create_workers(target, action)
            case DeletePods():
                return await self._deleter.delete_pods(target, action)
            case DeleteAttempt():
                known = self._templates.forget(target, action.attempt)
                await self._deleter.delete_attempt(target, action.attempt, known.uid if known is not None else None)
            case DeleteJob():
                await self._deleter.delete_job(target)
            case _:
                assert_never(action)
        return True

    async def _ensure(self, target: Target, action: EnsureAttempt) -> None:
        """The order tells what exists: no Secret without a policy, no Service without a head.

        So the cache, which holds no Secrets, shows what has to be deleted in the end; and a Service without a
        head means that the head was there and is lost.
        """
        rendered = render_attempt(
            target.job,
            attempt=action.attempt,
            settings=self._settings,
            ray_token=secrets.token_hex(32),
            ca_bundle=self._ca_bundle(),
        )
        if action.head and self._templates.known(target, action.attempt) is None:
            await self._names.claim(target, action.attempt)
        policy = await self._create(target, NETWORK_POLICY, rendered.network_policy) if action.policy else None
        if action.head:
            await self._ensure_account(target)
            try:
                head = await self._ensure_secret(target, action.attempt, rendered)
            except NameTakenError:
                self._names.ask_for_secret(target, action.attempt)
                if policy is not None:  # it is all that was made, and would stand alone beside what is not ours
                    await self._deleter.delete(
                        target, NETWORK_POLICY, policy["metadata"]["name"], policy["metadata"]["uid"]
                    )
                raise
            await self._create(target, POD, head)
        if action.service:
            await self._create(target, SERVICE, rendered.service)

    async def _ensure_secret(self, target: Target, attempt: int, rendered: AttemptObjects) -> Object:
        """The head as the attempt's Secret has it."""
        if self._templates.known(target, attempt) is not None:  # only the pod was refused, the last time
            return (await self._templates.seen(target, attempt)).head
        created = await self._create(target, SECRET, rendered.secret)
        if created is not None:
            uid = created["metadata"]["uid"]
            return self._templates.remember(target, attempt, uid, rendered.head, rendered.worker_templates).head
        # It is of a try before this one: the operator, or the spec, may have been another one then.
        return (await self._templates.stored(target, attempt)).head

    async def _create_workers(self, target: Target, action: CreateWorkers) -> bool:
        known = await self._templates.seen(target, action.attempt)
        await self._ensure_account(target)
        todo: Sequence[tuple[WorkerSlot, int]] = action.pods[:MAX_CREATES]
        batch = 1
        taken: NameTakenError | None = None
        while todo:
            try:
                await all_done(
                    [self._create_worker(target, action.attempt, known.workers, *pod) for pod in todo[:batch]]
                )
            except NameTakenError as error:  # of this one worker; the others come
                taken = taken or error
            todo = todo[batch:]
            batch = min(2 * batch, LARGEST_BATCH)
        if taken is not None:
            raise taken
        return len(action.pods) <= MAX_CREATES

    async def _create_worker(
        self, target: Target, attempt: int, templates: dict[str, Object], slot: WorkerSlot, incarnation: int
    ) -> None:
        try:
            template = templates[slot.group]
        except KeyError:
            message = (
                f"attempt {attempt} knows no worker group {slot.group}: the job was suspended, edited and resumed "
                "before the operator saw it"
            )
            raise AttemptGoneError(attempt, message) from None
        pod = worker_pod(template, job=target.job.metadata.name, attempt=attempt, slot=slot, incarnation=incarnation)
        await self._create(target, POD, pod)

    async def _ensure_account(self, target: Target) -> None:
        namespace = target.key.namespace
        if target.job.spec.cluster.service_account_name is not None or namespace in self._accounts:
            return
        body = build_service_account(namespace)
        try:
            await self._client.create(resource_path("v1", "serviceaccounts", namespace), body)
        except AlreadyExistsError:
            pass
        except (ForbiddenError, InvalidError) as error:
            raise RefusedError(_refusal(body, error)) from error
        self._accounts.add(namespace)

    async def _create(self, target: Target, kind: Kind, body: Object) -> Object | None:
        """Have `body` exist: what was stored, metadata alone; None when it was there before.

        Raises AlreadyExistsError when its name changes hands just now, NameTakenError when somebody else has it.
        """
        try:
            return await self._post(target, kind, body)
        except AlreadyExistsError:
            if await self._names.settle(target, kind, body["metadata"]["name"]):
                return None
        return await self._post(target, kind, body)

    async def _post(self, target: Target, kind: Kind, body: Object) -> Object:
        try:
            # Of the answer the version is enough, and decoding whole pods is what an operator's time goes into.
            created = await self._client.create(kind.path(target.key.namespace), body, metadata_only=True)
        except (ForbiddenError, InvalidError) as error:
            if "serviceaccount" in error.message:  # it was deleted: the next try makes it anew
                self._accounts.discard(target.key.namespace)
            raise RefusedError(_refusal(body, error)) from error
        store = self._mirrors.of(kind)
        if store is not None:
            self._tracker.record(target.key, store, created)
        return created


def _refusal(body: Object, error: ApiError) -> str:
    if any(cause.get("reason") == _NAMESPACE_GOES for cause in error.details.get("causes") or ()):
        return f"namespace {body['metadata']['namespace']} is being deleted: nothing can be made in it any more"
    return f"{body['kind']} {body['metadata']['name']} is refused: {error.message}"
