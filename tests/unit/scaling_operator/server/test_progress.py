"""The endpoint over real HTTPS, with an API server that answers as scripted."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scaling_api.driver import TOKEN_AUDIENCE, progress_path
from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.store import Store
from scaling_operator.server.certs import Authority, ServingCertificate
from scaling_operator.server.https import HttpsServer
from scaling_operator.server.progress import MAX_BODY_BYTES, ProgressEndpoint
from scaling_operator.server.tokens import TokenReviewer
from tests.unit.scaling_operator.runtime.scripted_server import Answer, ScriptedServer, answer, drop, failure
from tests.unit.scaling_operator.server.test_tokens import REVIEWS, TOKEN, reviewed, token_of

STATUS = "/apis/scaling.dev/v1alpha1/namespaces/team/scalingjobs/mnist/status"
JOB: dict[str, Any] = {
    "apiVersion": "scaling.dev/v1alpha1",
    "kind": "ScalingJob",
    "metadata": {"name": "mnist", "namespace": "team", "uid": "job-uid", "resourceVersion": "5"},
    "status": {"attempt": 1, "phase": "Running"},
}
POD = {
    "metadata": {
        "name": "mnist-1-head",
        "namespace": "team",
        "uid": "pod-uid",
        "resourceVersion": "6",
        "labels": {"scaling.dev/job": "mnist", "scaling.dev/attempt": "1", "scaling.dev/role": "head"},
        "ownerReferences": [{"uid": "job-uid", "controller": True}],
    }
}
STORED = {
    **JOB,
    "metadata": {**JOB["metadata"], "resourceVersion": "9", "managedFields": [{}]},
    "status": {"attempt": 1, "phase": "Running", "accuracy": "0.97"},
}
REPORT: dict[str, Any] = {
    "attempt": 1,
    "accuracy": "0.97",
    "progress": {"stage": "train", "percent": 40.0, "updatedAt": "2030-01-01T00:00:00Z"},
    "stages": [{"name": "train", "state": "Running"}],
}


class Operator:
    """The endpoint on a port, and the driver's side of the connection."""

    def __init__(self, api: ScriptedServer, jobs: Store, pods: Store, url: str, session: aiohttp.ClientSession) -> None:
        self.api, self.jobs, self.pods = api, jobs, pods
        self._url, self._session = url, session

    async def told(self) -> Any:
        """What the answer to a report tells."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self._session.post(self._url + progress_path("team", "mnist"), headers=headers, json=REPORT) as got:
            return await got.json()

    async def post(
        self, body: Any = REPORT, *, token: str = TOKEN, job: str = "mnist", **options: Any
    ) -> tuple[int, str, str | None]:
        """Status, sentence and Retry-After of the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        options = {"json": body} | options
        async with self._session.post(self._url + progress_path("team", job), headers=headers, **options) as response:
            return response.status, (await response.json())["message"], response.headers.get("Retry-After")


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    authority = Authority.create(datetime.now(UTC))

    async def load(known: Authority | None) -> Authority:
        return authority

    certificate = ServingCertificate(load, ["localhost"])
    await certificate.look()
    jobs, pods = Store("test-jobs"), Store("test-pods")
    jobs.replace([JOB], 6)
    pods.replace([POD], 6)
    async with ScriptedServer() as api, ApiClient(api.connection()) as client:
        api.on("POST", REVIEWS, reviewed())
        api.on("PATCH", STATUS, answer(STORED))
        # No time passes by the clocks that say how often a job may report and how long a token is known.
        reviewer = TokenReviewer(client, TOKEN_AUDIENCE, clock=lambda: 1000.0)
        endpoint = ProgressEndpoint(client, reviewer, jobs=jobs, pods=pods, clock=lambda: 1000.0)
        server = HttpsServer(endpoint.routes(), certificate.context, host="127.0.0.1", port=0)
        serving = asyncio.create_task(server.run())
        await asyncio.wait_for(server.started.wait(), 60)
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=certificate.bundle))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Operator(api, jobs, pods, f"https://localhost:{server.port}", session)
        serving.cancel()
        await asyncio.wait({serving})


async def test_a_report_is_in_the_status_before_it_is_answered(operator: Operator) -> None:
    assert await operator.post() == (200, "stored", None)
    (patch,) = operator.api.requests("PATCH")
    assert patch.query == {"fieldManager": "scaling-progress", "force": "true"}
    assert patch.headers["Content-Type"] == "application/apply-patch+yaml"
    identity = {"name": "mnist", "namespace": "team", "uid": "job-uid", "resourceVersion": "5"}
    assert patch.body["metadata"] == identity
    fields = patch.body["status"]
    assert fields["progress"]["percent"] == 40.0
    told = fields["objective"]
    assert (told["summary"], told["value"]) == ("accuracy 0.97", 0.97), "a driver of 0.1.0 fills the column too"
    assert fields["reportedAttempt"] == 1
    assert "attempt" not in fields


async def test_empty_maps_are_left_out_because_applying_one_over_a_full_one_leaves_null(operator: Operator) -> None:
    await operator.post({**REPORT, "progress": {**REPORT["progress"], "metrics": {}}, "result": {"metrics": {}}})
    (patch,) = operator.api.requests("PATCH")
    assert "metrics" not in patch.body["status"]["progress"]
    assert "result" not in patch.body["status"]


async def test_this_replica_sees_what_it_stored_at_once(operator: Operator) -> None:
    await operator.post()
    seen = operator.jobs.get("team", "mnist")
    assert seen is not None
    assert seen["status"]["accuracy"] == "0.97"
    assert "managedFields" not in seen["metadata"]


async def test_a_report_that_was_taken_is_answered_with_the_workers_that_the_spec_asks_for_now(
    operator: Operator,
) -> None:
    group = {"name": "cpu", "min": 1, "max": 3, "slots": 2, "resources": {}}
    operator.api.on("PATCH", STATUS, answer({**STORED, "spec": {"cluster": {"workers": [group]}}}))
    assert (await operator.told())["workers"] == [{"name": "cpu", "min": 1, "max": 3}]


@pytest.mark.parametrize("spec", [{}, {"cluster": {}}, {"cluster": {"workers": [{"name": "cpu", "min": "?"}]}}])
async def test_a_spec_without_bounds_that_can_be_read_tells_none(operator: Operator, spec: Any) -> None:
    operator.api.on("PATCH", STATUS, answer({**STORED, "spec": spec}))
    assert await operator.told() == {"message": "stored", "workers": []}


@pytest.mark.parametrize(
    ("review", "code"),
    [
        pytest.param(reviewed(audiences=["other"]), 401, id="token for another audience"),
        pytest.param(reviewed(authenticated=False), 401, id="expired token, or deleted pod"),
        pytest.param(drop(), 503, id="API server away"),
        pytest.param(failure(500, "InternalError"), 503, id="API server in trouble"),
    ],
)
async def test_the_token_decides_before_anything_is_written(operator: Operator, review: Answer, code: int) -> None:
    operator.api.on("POST", REVIEWS, review)
    status, sentence, retry_after = await operator.post()
    assert status == code
    assert sentence
    assert (retry_after is not None) == (code == 503)
    assert operator.api.requests("PATCH") == []


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        pytest.param({**REPORT, "attempt": 2}, 403, "attempt 2", id="a pod of another attempt"),
        pytest.param({**REPORT, "attempt": 0}, 422, "attempt", id="attempt out of range"),
        pytest.param({**REPORT, "accurracy": "1"}, 422, "accurracy", id="misspelt field"),
        pytest.param({**REPORT, "accuracy": 0.97}, 422, "accuracy", id="number for a string"),
        pytest.param([], 422, "report", id="not a map"),
        pytest.param({**REPORT, "reportedAttempt": 7}, 200, "stored", id="its own word on the attempt is ignored"),
    ],
)
async def test_the_body_is_checked_strictly(operator: Operator, body: Any, code: int, named: str) -> None:
    status, sentence, _ = await operator.post(body)
    assert (status, named in sentence) == (code, True), sentence
    for patch in operator.api.requests("PATCH"):
        assert patch.body["status"]["reportedAttempt"] == 1


async def test_garbage_is_refused(operator: Operator) -> None:
    assert (await operator.post(json=None, data=b"\xff{not json"))[0] == 400


async def test_a_huge_body_is_refused_and_not_decoded(operator: Operator) -> None:
    assert (await operator.post(json=None, data=b"[" * (MAX_BODY_BYTES + 1)))[0] == 413


@pytest.mark.parametrize("token", ["", " "], ids=["no header", "no token"])
async def test_a_request_without_a_token_is_refused(operator: Operator, token: str) -> None:
    assert (await operator.post(token=token))[0] == 401
    assert operator.api.received == []


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param("forged", 401, id="no token"),
        pytest.param(token_of(audience=["other"]), 401, id="another audience"),
        pytest.param(token_of(pod="curious"), 401, id="a pod that is not ours"),
        pytest.param(token_of(uid="guessed"), 403, id="a uid that is not the head's"),
        pytest.param(token_of(pod="mnist-2-head"), 503, id="a head that the cache does not show yet"),
        pytest.param(token_of(pod="mnist-3-head"), 401, id="a head that cannot be yet"),
    ],
)
async def test_who_does_not_claim_to_be_a_pod_of_ours_costs_no_request(
    operator: Operator, token: str, code: int
) -> None:
    assert (await operator.post(token=token))[0] == code
    assert operator.api.received == []


async def test_an_unknown_job_is_refused(operator: Operator) -> None:
    assert (await operator.post(job="other"))[0] == 403


async def test_a_deleted_pod_cannot_report(operator: Operator) -> None:
    operator.pods.replace([{**POD, "metadata": {**POD["metadata"], "uid": "successor"}}], 7, force=True)
    assert (await operator.post())[0] == 403


@pytest.mark.parametrize("store", ["jobs", "pods"])
async def test_what_the_cache_does_not_show_yet_is_tried_again(operator: Operator, store: str) -> None:
    stale = {"jobs": [{**JOB, "status": {}}], "pods": []}[store]
    getattr(operator, store).replace(stale, 7, force=True)
    status, _, retry_after = await operator.post()
    assert (status, retry_after) == (503, "2")


async def test_nothing_is_believed_before_the_first_list(operator: Operator) -> None:
    operator.pods.has_synced = False
    assert (await operator.post())[0] == 503


@pytest.mark.parametrize(
    ("reply", "code", "again"),
    [
        pytest.param(failure(404, "NotFound"), 404, None, id="job deleted meanwhile"),
        pytest.param(failure(409, "Conflict"), 503, "2", id="the job changes all the time"),
        pytest.param(failure(422, "Invalid", "status.stages: too many"), 422, None, id="the CRD refuses it"),
        pytest.param(failure(503, "ServiceUnavailable"), 503, "2", id="API server away"),
        pytest.param(failure(429, "TooManyRequests", retry_after_s=77), 503, "77", id="API server sheds load"),
        pytest.param(failure(403, "Forbidden"), 503, "2", id="right missing"),
    ],
)
async def test_a_failed_write_is_never_answered_with_200(
    operator: Operator, reply: Answer, code: int, again: str | None
) -> None:
    operator.api.on("PATCH", STATUS, reply)
    status, _, retry_after = await operator.post()
    assert (status, retry_after) == (code, again)


async def test_a_head_that_was_replaced_is_refused_even_by_a_cache_that_is_behind(operator: Operator) -> None:
    replaced = {**JOB, "metadata": {**JOB["metadata"], "resourceVersion": "8"}, "status": {"attempt": 2}}

    async def conflict(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        operator.jobs.apply("MODIFIED", replaced)
        return await failure(409, "Conflict")(server, request)

    operator.api.on("PATCH", STATUS, conflict)
    status, sentence, _ = await operator.post()
    assert (status, sentence) == (409, "attempt 1 of team/mnist is over; attempt 2 is current")
    assert len(operator.api.requests("PATCH")) == 1


async def test_a_write_that_met_another_is_repeated_on_what_came_out(operator: Operator) -> None:
    changed = {**JOB, "metadata": {**JOB["metadata"], "resourceVersion": "8"}}

    async def conflict(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        operator.jobs.apply("MODIFIED", changed)
        return await failure(409, "Conflict")(server, request)

    operator.api.on("PATCH", STATUS, conflict, answer(STORED))
    assert (await operator.post())[0] == 200
    versions = [patch.body["metadata"]["resourceVersion"] for patch in operator.api.requests("PATCH")]
    assert versions == ["5", "8"]


@pytest.mark.parametrize(
    ("stored", "writes"),
    [
        pytest.param({"progress": {**REPORT["progress"], "updatedAt": "2030-01-01T00:00:01Z"}}, 1, id="a later one"),
        pytest.param({"progress": REPORT["progress"], "result": {"metrics": {"f1": 1.0}}}, 1, id="the last one"),
        pytest.param({"progress": {**REPORT["progress"], "updatedAt": "2029-12-31T23:59:59Z"}}, 2, id="an earlier one"),
        pytest.param({"progress": REPORT["progress"]}, 2, id="one of the same second"),
        pytest.param(
            {"progress": {**REPORT["progress"], "updatedAt": "2030-01-01T00:00:01Z"}, "reportedAttempt": 0},
            2,
            id="one of an earlier attempt, by another clock",
        ),
    ],
)
async def test_a_report_that_was_overtaken_on_its_way_changes_nothing(
    operator: Operator, stored: dict[str, Any], writes: int
) -> None:
    changed = {
        **JOB,
        "metadata": {**JOB["metadata"], "resourceVersion": "8"},
        "status": {**JOB["status"], "reportedAttempt": 1, **stored},
    }

    async def conflict(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        operator.jobs.apply("MODIFIED", changed)
        return await failure(409, "Conflict")(server, request)

    operator.api.on("PATCH", STATUS, conflict, answer(STORED))
    assert (await operator.post())[0] == 200
    assert len(operator.api.requests("PATCH")) == writes


async def test_a_job_that_reports_too_often_is_told_when_to_come_again(operator: Operator) -> None:
    answers = [await operator.post() for _ in range(6)]
    assert [status for status, _, _ in answers] == [200] * 4 + [429] * 2
    assert answers[-1][2] is not None
    finished = {**REPORT, "stages": [{"name": "train", "state": "Succeeded"}]}
    assert (await operator.post(finished))[0] == 200


async def test_one_review_serves_many_reports(operator: Operator) -> None:
    for _ in range(3):
        await operator.post()
    assert len(operator.api.requests("POST")) == 1


async def test_no_token_reaches_the_log(operator: Operator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    operator.api.on("POST", REVIEWS, reviewed(authenticated=False))
    await operator.post()
    assert TOKEN not in caplog.text
    assert "refused" in caplog.text
