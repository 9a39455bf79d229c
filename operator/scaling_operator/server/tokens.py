"""Who sent a request: a pod, known by its projected token.

The API server checks the token (signature, expiry, audience, that the pod still exists) by a TokenReview and says
which pod it is bound to. Its answer is believed for a minute, so that a driver costs it one request in a while;
a refusal for some seconds, so that a broken client cannot make us ask for ever. Only digests of tokens are kept.

What a token says of itself can be read without asking, and proves nothing. But a token that does not even claim to be
a pod's that we know need not be asked about: so a stranger, who knows no uid, cannot have us flood the API server.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from ..runtime.client import ApiClient, resource_path
from ..runtime.errors import ServerUnavailableError
from ..runtime.objects import Object

ACCEPTED_FOR_S = 60.0
REFUSED_FOR_S = 10.0
CACHE_SIZE = 4096
# Token reviews under way at once; more than that wait.
MAX_REVIEWS = 16
REVIEW_TIMEOUT_S = 10.0
MAX_TOKEN_CHARACTERS = 16_384

_SERVICE_ACCOUNT = "system:serviceaccount:"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a token is bound to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a token is not good; a sentence without the token."""

    sentence: str


@dataclass(frozen=True, slots=True)
class _Entry:
    verdict: PodIdentity | Refusal
    until: float


class TokenReviewer:
    """Asks the API server about tokens for `audience`; `clock` is monotonic, in seconds."""

    def __init__(self, client: ApiClient, audience: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._audience = audience
        self._clock = clock
        self._cache: OrderedDict[bytes, _Entry] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_REVIEWS)

    def claimed(self, token: str) -> PodIdentity | Refusal:
        """The pod that `token` says it is bound to, unverified."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return Refusal("the token is empty or too long")
        try:
            payload = token.encode("ascii").decode().split(".")[1]
            claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            audiences = [claims["aud"]] if isinstance(claims["aud"], str) else list(claims["aud"])
            bound = claims["kubernetes.io"]
            identity = PodIdentity(str(bound["namespace"]), str(bound["pod"]["name"]), str(bound["pod"]["uid"]))
        except (IndexError, KeyError, TypeError, ValueError):
            return Refusal("the token is not one that is bound to a pod")
        if self._audience not in audiences:
            return Refusal(f"the token is not for the audience {self._audience}")
        return identity

    async def review(self, token: str) -> PodIdentity | Refusal:
        """The pod behind `token`, or why there is none. Raises ApiError when the API server cannot be asked."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return Refusal("the token is empty or too long")
        digest = hashlib.sha256(token.encode()).digest()
        entry = self._cache.get(digest)
        if entry is not None and self._clock() < entry.until:
            return entry.verdict
        verdict = await self._ask(token)
        kept_s = ACCEPTED_FOR_S if isinstance(verdict, PodIdentity) else REFUSED_FOR_S
        self._cache[digest] = _Entry(verdict, self._clock() + kept_s)
        self._cache.move_to_end(digest)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return verdict

    async def _ask(self, token: str) -> PodIdentity | Refusal:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        path = resource_path("authentication.k8s.io/v1", "tokenreviews")
        try:
            async with asyncio.timeout(REVIEW_TIMEOUT_S), self._slots:
                answer = await self._client.create(path, body)
        except TimeoutError as exc:
            raise ServerUnavailableError(0, "Timeout", "no TokenReview was to be had in time") from exc
        return _verdict(answer.get("status") or {}, self._audience)


def _verdict(status: Object, audience: str) -> PodIdentity | Refusal:
    if not status.get("authenticated"):
        return Refusal("the token is not valid: expired, of a deleted pod, or for another audience")
    # A server that does not know about audiences authenticates any token and names none.
    if audience not in (status.get("audiences") or []):
        return Refusal(f"the token is not for the audience {audience}")
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    namespace = str(user.get("username", "")).removeprefix(_SERVICE_ACCOUNT).split(":")[0]
    name, uid = (next(iter(extra.get(key) or []), "") for key in (_POD_NAME, _POD_UID))
    if not (name and uid and str(user.get("username", "")).startswith(_SERVICE_ACCOUNT)):
        return Refusal("the token is not bound to a pod")
    return PodIdentity(namespace, name, uid)
