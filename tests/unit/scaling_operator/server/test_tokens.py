from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.errors import ApiError
from scaling_operator.server import tokens
from scaling_operator.server.tokens import PodIdentity, Refusal, TokenReviewer
from tests.unit.scaling_operator.runtime.scripted_server import Answer, ScriptedServer, answer, drop, failure

AUDIENCE = "scaling.dev/operator"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def token_of(*, audience: Any = (AUDIENCE,), pod: str | None = "mnist-1-head", uid: str = "pod-uid") -> str:
    """A token as the API server makes them, but for its signature; bound to no pod when that is None."""
    bound = {"namespace": "team"} | ({"pod": {"name": pod, "uid": uid}} if pod else {})
    payload = json.dumps({"aud": audience, "kubernetes.io": bound}).encode()
    return f"eyJhbGciOi.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.secret"


TOKEN = token_of()


def reviewed(**changes: Any) -> Answer:
    """The API server's answer about a head pod's token, with `changes` in its status."""
    status = {
        "authenticated": True,
        "audiences": [AUDIENCE],
        "user": {
            "username": "system:serviceaccount:team:scalingjob",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["mnist-1-head"],
                "authentication.kubernetes.io/pod-uid": ["pod-uid"],
            },
        },
    }
    return answer({"status": status | changes})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def review(*answers: Answer) -> PodIdentity | Refusal:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", REVIEWS, *answers)
        return await TokenReviewer(client, AUDIENCE).review(TOKEN)


async def test_a_good_token_names_its_pod() -> None:
    assert await review(reviewed()) == PodIdentity("team", "mnist-1-head", "pod-uid")


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        pytest.param(reviewed(authenticated=False), "not valid", id="expired, or of a deleted pod"),
        pytest.param(answer({"status": {}}), "not valid", id="no verdict"),
        pytest.param(reviewed(audiences=["https://kubernetes.default.svc"]), "audience", id="another audience"),
        pytest.param(reviewed(audiences=[]), "audience", id="a server that knows no audiences"),
        pytest.param(reviewed(user={"username": "system:serviceaccount:team:x"}), "bound to a pod", id="not bound"),
        pytest.param(
            reviewed(
                user={
                    "username": "jane",
                    "extra": {
                        "authentication.kubernetes.io/pod-name": ["p"],
                        "authentication.kubernetes.io/pod-uid": ["u"],
                    },
                }
            ),
            "bound to a pod",
            id="a person",
        ),
    ],
)
async def test_other_tokens_are_refused(reply: Answer, sentence: str) -> None:
    verdict = await review(reply)
    assert isinstance(verdict, Refusal)
    assert sentence in verdict.sentence


async def test_what_a_token_says_of_itself_is_read_without_asking() -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        reviewer = TokenReviewer(client, AUDIENCE)
        for audience in ([AUDIENCE, "other"], AUDIENCE):
            claimed = reviewer.claimed(token_of(audience=audience))
            assert claimed == PodIdentity("team", "mnist-1-head", "pod-uid")
        assert server.received == []


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("forged", id="no token"),
        pytest.param("a.b.c", id="no JSON"),
        pytest.param("a.W10.c", id="no claims"),
        pytest.param("a." + "\u00e9" * 8 + ".c", id="no base64"),
        pytest.param(token_of() + "\udcff", id="bytes that are no text"),
        pytest.param("x" * 20_000, id="too long"),
        pytest.param(token_of(audience=["https://kubernetes.default.svc"]), id="another audience"),
        pytest.param(token_of(audience=7), id="an audience that is none"),
        pytest.param(token_of(pod=None), id="not bound to a pod"),
    ],
)
async def test_what_does_not_even_claim_to_be_a_pods(token: str) -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        assert isinstance(TokenReviewer(client, AUDIENCE).claimed(token), Refusal)


@pytest.mark.parametrize("token", ["", "x" * 20_000], ids=["empty", "too long"])
async def test_what_cannot_be_a_token_costs_no_request(token: str) -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        assert isinstance(await TokenReviewer(client, AUDIENCE).review(token), Refusal)
        assert server.received == []


@pytest.mark.parametrize(
    ("reply", "kept_s"),
    [
        pytest.param(reviewed(), tokens.ACCEPTED_FOR_S, id="accepted"),
        pytest.param(reviewed(authenticated=False), tokens.REFUSED_FOR_S, id="refused"),
    ],
)
async def test_a_verdict_is_asked_for_again_only_after_a_while(reply: Answer, kept_s: float) -> None:
    clock = Clock()
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", REVIEWS, reply)
        reviewer = TokenReviewer(client, AUDIENCE, clock=clock)
        await reviewer.review(TOKEN)
        clock.now += kept_s - 0.1
        await reviewer.review(TOKEN)
        assert len(server.received) == 1
        clock.now += 0.2
        await reviewer.review(TOKEN)
        assert len(server.received) == 2


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHE_SIZE", 2)
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", REVIEWS, reviewed())
        reviewer = TokenReviewer(client, AUDIENCE)
        for token in ("a", "b", "c", "a"):
            await reviewer.review(token)
        assert len(server.received) == 4


@pytest.mark.parametrize("reply", [drop(), failure(503, "ServiceUnavailable"), failure(403, "Forbidden")])
async def test_no_answer_is_no_verdict_and_is_not_remembered(reply: Answer) -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", REVIEWS, reply)
        reviewer = TokenReviewer(client, AUDIENCE)
        with pytest.raises(ApiError):
            await reviewer.review(TOKEN)
        server.on("POST", REVIEWS, reviewed())
        assert isinstance(await reviewer.review(TOKEN), PodIdentity)


async def test_tokens_are_neither_logged_nor_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", REVIEWS, reviewed(authenticated=False))
        reviewer = TokenReviewer(client, AUDIENCE)
        await reviewer.review(TOKEN)
        assert TOKEN not in caplog.text
        assert TOKEN not in repr(vars(reviewer))
