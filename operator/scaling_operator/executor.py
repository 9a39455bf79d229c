"""Carries out decisions: creates and deletes, and notes every write for the reconcile that follows.

"Not found" on deletion is success, and so is "already exists" on creation when the object is this job's: names are
derived, so an object of ours under that name is the one that was asked for. One of somebody else's is most often
left over from an earlier job of the same name, and has to go first. Worker pods are created in batches
that double (1, 2, 4, …), so that what the API server refuses is refused once and not five hundred times, and at
most MAX_CREATES of them per call (and MAX_DELETES deleted), so that a large job does not keep a worker of the queue
from small ones.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from scaling_api import API_VERSION, PLURAL, names
from scaling_api.names import WorkerSlot
from scaling_api.spec import ScalingJob

from .decide.types import Action, CreateWorkers, DeleteAttempt, DeleteJob, DeletePods, EnsureAttempt
from .mirrors import Mirrors
from .resources.attempt import AttemptObjects, render_attempt, worker_pod
from .resources.secret import stored_templates
from .resources.service_account import build_service_account
from .runtime.client import ApiClient, resource_path
from .runtime.errors import AlreadyExistsError, ApiError, ConflictError, ForbiddenError, InvalidError, NotFoundError
from .runtime.objects import Key, Object
from .runtime.store import Store
from .runtime.tracker import WriteTracker
from .settings import Settings

NETWORKING = "networking.k8s.io/v1"
MAX_CREATES = 128
MAX_DELETES = 512
LARGEST_BATCH = 32
_DELETES_AT_ONCE = 32
_TEMPLATES_KEPT = 1000


class RefusedError(Exception):
    """The API server refuses an object (quota, admission, Pod Security): only a person can change that."""


class NameTakenError(Exception):
    """An object of that name exists and is not this job's."""


class AttemptGoneError(Exception):
    """The attempt's Secret is gone, and with it what its pods are made from."""

    def __init__(self, attempt: int, message: str) -> None:
        super().__init__(message)
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Target:
    """The job that actions are about; `manifest` is as cached, `job` as parsed."""

    key: Key
    manifest: Object
    job: ScalingJob


@dataclass(frozen=True, slots=True)
class _Templates:
    """What an attempt's pods are made from: as rendered when it began, maybe by an earlier version of the operator."""

    head: Object
    workers: dict[str, Object]


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
        self._templates: OrderedDict[tuple[str, int], _Templates] = OrderedDict()
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
                return await self._delete_pods(target, action)
            case DeleteAttempt():
                await self._delete_attempt(target, action.attempt)
            case DeleteJob():
                await self._delete_job(target)
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
        namespace, mirrors = target.key.namespace, self._mirrors
        if action.policy:
            path = resource_path(NETWORKING, "networkpolicies", namespace)
            await self._create(target, path, rendered.network_policy, mirrors.network_policies)
        if action.head:
            await self._ensure_account(target)
            head = await self._ensure_secret(target, action.attempt, rendered)
            await self._create(target, resource_path("v1", "pods", namespace), head, mirrors.pods)
        if action.service:
            path = resource_path("v1", "services", namespace)
            await self._create(target, path, rendered.service, mirrors.services)

    async def _ensure_secret(self, target: Target, attempt: int, rendered: AttemptObjects) -> Object:
        """The head as the attempt's Secret has it."""
        known = self._known(target, attempt)
        if known is not None:  # only the pod was refused, the last time
            return known.head
        path = resource_path("v1", "secrets", target.key.namespace)
        if await self._create(target, path, rendered.secret, None):
            return self._remember(target, attempt, _Templates(rendered.head, rendered.worker_templates)).head
        # It is of a try before this one: the operator, or the spec, may have been another one then.
        return (await self._stored_templates(target, attempt)).head

    async def _create_workers(self, target: Target, action: CreateWorkers) -> bool:
        known = self._known(target, action.attempt) or await self._stored_templates(target, action.attempt)
        await self._ensure_account(target)
        todo: Sequence[tuple[WorkerSlot, int]] = action.pods[:MAX_CREATES]
        batch = 1
        while todo:
            await _all([self._create_worker(target, action.attempt, known.workers, *pod) for pod in todo[:batch]])
            todo = todo[batch:]
            batch = min(2 * batch, LARGEST_BATCH)
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
        await self._create(target, resource_path("v1", "pods", target.key.namespace), pod, self._mirrors.pods)

    async def _stored_templates(self, target: Target, attempt: int) -> _Templates:
        name = names.ray_cluster(target.key.name, attempt)
        try:
            secret = await self._client.get(resource_path("v1", "secrets", target.key.namespace, name))
            head, workers = stored_templates(secret)
        except (NotFoundError, KeyError, ValueError) as error:
            message = f"the Secret {name} with token and templates of attempt {attempt} is gone"
            raise AttemptGoneError(attempt, message) from error
        return self._remember(target, attempt, _Templates(head, workers))

    def _known(self, target: Target, attempt: int) -> _Templates | None:
        return self._templates.get((target.manifest["metadata"]["uid"], attempt))

    def _remember(self, target: Target, attempt: int, templates: _Templates) -> _Templates:
        self._templates[target.manifest["metadata"]["uid"], attempt] = templates
        while len(self._templates) > _TEMPLATES_KEPT:
            self._templates.popitem(last=False)
        return templates

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

    async def _create(self, target: Target, path: str, body: Object, store: Store | None) -> bool:
        """Have `body` exist; False when it did before. `store` is the cache that will show it, if any."""
        try:
            # Of the answer the version is enough, and decoding whole pods is what an operator's time goes into.
            created = await self._client.create(path, body, metadata_only=True)
        except AlreadyExistsError as error:
            await self._check_owner(target, path, body, store, error)
            return False
        except (ForbiddenError, InvalidError) as error:
            if "serviceaccount" in error.message:  # it was deleted: the next try makes it anew
                self._accounts.discard(target.key.namespace)
            raise RefusedError(_refusal(body, error)) from error
        if store is not None:
            self._tracker.record(target.key, store, created)
        return True

    async def _check_owner(
        self, target: Target, path: str, body: Object, store: Store | None, error: AlreadyExistsError
    ) -> None:
        name = body["metadata"]["name"]
        found = store.get(target.key.namespace, name) if store is not None else None
        if found is None:  # not in the cache yet, or a Secret
            try:
                found = await self._client.get(f"{path}/{name}", metadata_only=True)
            except NotFoundError:
                raise error from None  # gone just now: the next try creates it
        uid = target.manifest["metadata"]["uid"]
        if all(owner["uid"] != uid for owner in found["metadata"].get("ownerReferences") or ()):
            raise NameTakenError(
                f"{body['kind']} {name} exists and is not this job's; if an earlier job of this name was deleted "
                "just now, it goes by itself"
            )

    async def _delete_pods(self, target: Target, action: DeletePods) -> bool:
        todo = action.pods[:MAX_DELETES]
        for start in range(0, len(todo), _DELETES_AT_ONCE):
            await _all(
                [
                    self._delete(target, "v1", "pods", name, self._mirrors.pods, uid=uid)
                    for name, uid in todo[start : start + _DELETES_AT_ONCE]
                ]
            )
        return len(action.pods) <= MAX_DELETES

    async def _delete_attempt(self, target: Target, attempt: int) -> None:
        name = names.ray_cluster(target.key.name, attempt)
        self._templates.pop((target.manifest["metadata"]["uid"], attempt), None)
        # The Secret is in no cache: as long as it may exist, something that is in one has to.
        await self._delete(target, "v1", "secrets", name, None)
        await _all(
            [
                self._delete(target, NETWORKING, "networkpolicies", name, self._mirrors.network_policies),
                self._delete(target, "v1", "services", name, self._mirrors.services),
            ]
        )

    async def _delete_job(self, target: Target) -> None:
        path = resource_path(API_VERSION, PLURAL, *target.key)
        try:
            await self._client.delete(path, uid=target.manifest["metadata"]["uid"], propagation="Background")
        except (NotFoundError, ConflictError):
            pass

    async def _delete(
        self,
        target: Target,
        group_version: str,
        plural: str,
        name: str,
        store: Store | None,
        *,
        uid: str | None = None,
    ) -> None:
        path = resource_path(group_version, plural, target.key.namespace, name)
        try:
            answer = await self._client.delete(path, uid=uid)
        except (NotFoundError, ConflictError):  # gone, or another one's
            return
        # While an object terminates the answer is the object; what is gone at once tells no version.
        if store is not None and answer.get("kind") != "Status":
            self._tracker.record(target.key, store, answer)


async def _all(calls: Sequence[Any]) -> None:
    """Await all calls, then raise the first refusal, else the first error: none is cut off half-way."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, ApiError)), errors[0])


def _refusal(body: Object, error: ApiError) -> str:
    return f"{body['kind']} {body['metadata']['name']} is refused: {error.message}"
