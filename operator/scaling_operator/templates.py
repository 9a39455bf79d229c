"""What the pods of an attempt are made from: as its Secret has it, remembered as long as that is sure to be there."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from scaling_api import names

from .kinds import SECRET
from .ownership import Target, is_of
from .resources.secret import stored_templates
from .runtime.client import ApiClient
from .runtime.errors import NotFoundError
from .runtime.objects import Object

_KEPT = 1000
# Pods that are made later than so after their Secret was seen might wait for ever for one that is gone.
_SEEN_FOR_S = 60.0


class AttemptGoneError(Exception):
    """The attempt's Secret is gone, and with it what its pods are made from."""

    def __init__(self, attempt: int, message: str) -> None:
        super().__init__(message)
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Templates:
    """What an attempt's pods are made from: as rendered when it began, maybe by an earlier version of the operator."""

    # Of the Secret that holds them, and when it was last seen, by the event loop's clock.
    uid: str
    seen_at: float
    head: Object
    workers: dict[str, Object]


class TemplateMemory:
    """The templates of attempts, by the job's uid and the attempt's number."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._templates: OrderedDict[tuple[str, int], Templates] = OrderedDict()

    def known(self, target: Target, attempt: int) -> Templates | None:
        """What is remembered of an attempt."""
        return self._templates.get((target.uid, attempt))

    def remember(self, target: Target, attempt: int, uid: str, head: Object, workers: dict[str, Object]) -> Templates:
        """Remember what the Secret of that uid holds."""
        templates = Templates(uid, asyncio.get_running_loop().time(), head, workers)
        self._templates[target.uid, attempt] = templates
        while len(self._templates) > _KEPT:
            self._templates.popitem(last=False)
        return templates

    def forget(self, target: Target, attempt: int) -> Templates | None:
        """What was remembered of an attempt, which is over."""
        return self._templates.pop((target.uid, attempt), None)

    async def seen(self, target: Target, attempt: int) -> Templates:
        """The attempt's templates, remembered or read, when its Secret still is there for the pods to mount.

        Raises AttemptGoneError when it is not.
        """
        known = self.known(target, attempt)
        if known is not None and asyncio.get_running_loop().time() - known.seen_at < _SEEN_FOR_S:
            return known
        return await self.stored(target, attempt)

    async def stored(self, target: Target, attempt: int) -> Templates:
        """The attempt's templates as its Secret has them. Raises AttemptGoneError when there is none any more."""
        name = names.ray_cluster(target.key.name, attempt)
        try:
            secret = await self._client.get(SECRET.path(target.key.namespace, name))
            if not is_of(secret, target.uid):
                raise KeyError(target.uid)
            head, workers = stored_templates(secret)
        except (NotFoundError, KeyError, ValueError) as error:
            self._templates.pop((target.uid, attempt), None)
            message = f"the Secret {name} with token and templates of attempt {attempt} is gone"
            raise AttemptGoneError(attempt, message) from error
        return self.remember(target, attempt, secret["metadata"]["uid"], head, workers)
