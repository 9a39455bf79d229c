"""One progress report from request to answer.

Persisted first, answered afterwards: 200 means that the status of the job shows it, or a later one. 503 and 429 ask
the driver to come again (Retry-After says when), every other refusal tells it in a sentence why it would be in vain.
Each answer is JSON, a ProgressAnswer: that to a report that was taken tells the groups' present bounds, because an edit
of them takes effect in the running driver.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

import orjson
from aiohttp import web
from prometheus_client import Counter
from pydantic import ValidationError

from scaling_api import API_VERSION, KIND, PLURAL, names
from scaling_api.driver import ProgressAnswer, ProgressReport, WorkerBounds, progress_path
from scaling_api.status import PROGRESS_MANAGER

from ..decide.clock import from_rfc3339
from ..log_fields import job_fields
from ..runtime import logs
from ..runtime.client import APPLY_PATCH, ApiClient, resource_path
from ..runtime.errors import (
    ApiError,
    ConflictError,
    InvalidError,
    NotFoundError,
    ServerUnavailableError,
    TooManyRequestsError,
)
from ..runtime.objects import Key, Object
from ..runtime.store import Store
from .limits import ReportLimits
from .senders import Later, Refuse, judge_sender
from .tokens import PodIdentity, Refusal, TokenReviewer

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024
BODY_TIMEOUT_S = 15.0
RETRY_AFTER_S = 2
# After each of these pauses the cache has had time to show what made a write fail.
CONFLICT_PAUSES_S = (0.05, 0.2, 0.5, 1.0)

REPORTS = Counter("scaling_progress_reports_total", "Progress reports of drivers by HTTP answer", ["code"])


class RefusedError(Exception):
    """The report is not taken: HTTP status, sentence, and when to try again if that helps."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after_s = retry_after_s


class ProgressEndpoint:
    """Takes reports for the jobs in `jobs` from the head pods in `pods`."""

    def __init__(
        self,
        client: ApiClient,
        reviewer: TokenReviewer,
        *,
        jobs: Store,
        pods: Store,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = client
        self._reviewer = reviewer
        self._jobs = jobs
        self._pods = pods
        self._clock = clock or asyncio.get_running_loop().time
        self._limits = ReportLimits()

    def routes(self) -> list[web.RouteDef]:
        """What the HTTPS port serves of this."""
        return [web.post(progress_path("{namespace}", "{job}"), self.handle)]

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        namespace, job = request.match_info["namespace"], request.match_info["job"]
        with logs.bound(**job_fields(self._jobs, Key(namespace, job))):
            try:
                await self._take(request, namespace, job)
                response = _answer(200, "stored", workers=_bounds(self._jobs.get(namespace, job)))
            except RefusedError as exc:
                logger.log(
                    logging.DEBUG if exc.retry_after_s is not None else logging.INFO,
                    "refused a progress report: %s",
                    exc,
                    extra={"code": exc.status},
                )
                response = _answer(exc.status, str(exc), retry_after_s=exc.retry_after_s)
        REPORTS.labels(str(response.status)).inc()
        return response

    async def _take(self, request: web.Request, namespace: str, name: str) -> None:
        if not (self._jobs.has_synced and self._pods.has_synced):
            raise RefusedError(503, "the operator is starting", retry_after_s=RETRY_AFTER_S)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RefusedError(401, "the request needs the header Authorization: Bearer TOKEN")
        self._check_claim(token.strip(), namespace, name)
        try:
            sender = await self._reviewer.review(token.strip())
        except ApiError as exc:
            raise _unavailable(exc) from exc
        if isinstance(sender, Refusal):
            raise RefusedError(401, sender.sentence)
        report = await _read(request)
        job = self._admit(sender, report, namespace, name)
        uid = job["metadata"]["uid"]
        wait_s = self._limits.wait_s(uid, report, self._clock())
        if wait_s > 0:
            raise RefusedError(429, f"job {namespace}/{name} reports too often", retry_after_s=wait_s)
        for pause_s in CONFLICT_PAUSES_S:
            try:
                await self._store(job, report)
                self._limits.accepted(uid, report)
                return
            except ConflictError:
                # The job has changed, maybe to another attempt: judge anew once the cache shows it.
                await asyncio.sleep(pause_s)
                job = self._admit(sender, report, namespace, name)
                if _is_overtaken(report, job.get("status") or {}):
                    return
        raise RefusedError(503, "the job changes too fast", retry_after_s=RETRY_AFTER_S)

    def _check_claim(self, token: str, namespace: str, name: str) -> None:
        """Raise RefusedError for a token that need not be asked about: its pod is not one that we know."""
        claimed = self._reviewer.claimed(token)
        if isinstance(claimed, Refusal):
            raise RefusedError(401, claimed.sentence)
        pod = self._pods.get(claimed.namespace, claimed.name)
        if pod is not None and pod["metadata"]["uid"] == claimed.uid:
            return
        where = f"pod {claimed.namespace}/{claimed.name}"
        if pod is not None:
            raise RefusedError(403, f"{where} has been replaced by another one of that name")
        job = self._jobs.get(namespace, name)
        current = (job.get("status") or {}).get("attempt") or 0 if job is not None else 0
        # The cache may be behind by an attempt that has just begun.
        if claimed.namespace == namespace and claimed.name in {
            names.head_pod(name, current),
            names.head_pod(name, current + 1),
        }:
            raise RefusedError(503, f"{where} is not known here yet", retry_after_s=RETRY_AFTER_S)
        raise RefusedError(401, f"{where} is no pod of a job, or was deleted")

    def _admit(self, sender: PodIdentity, report: ProgressReport, namespace: str, name: str) -> Object:
        """The cached job, if `sender` may report for it. Raises RefusedError."""
        job = self._jobs.get(namespace, name)
        verdict = judge_sender(
            sender,
            namespace=namespace,
            job_name=name,
            attempt=report.attempt,
            job=job,
            pod=self._pods.get(sender.namespace, sender.name),
        )
        if isinstance(verdict, Refuse):
            raise RefusedError(verdict.status, verdict.sentence)
        if isinstance(verdict, Later):
            raise RefusedError(503, verdict.sentence, retry_after_s=RETRY_AFTER_S)
        assert job is not None
        return job

    async def _store(self, job: Object, report: ProgressReport) -> None:
        """Write the report into the status of `job` if that is still what the cache shows; else ConflictError.

        Hence a replica whose cache is behind never takes the word of a head that has been replaced.
        """
        identity = {key: job["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
        namespace, name = identity["namespace"], identity["name"]
        body: Object = {"apiVersion": API_VERSION, "kind": KIND, "metadata": identity, "status": report.to_status()}
        path = resource_path(API_VERSION, PLURAL, namespace, name, "status")
        parameters = {"fieldManager": PROGRESS_MANAGER, "force": "true"}
        try:
            stored = await self._client.patch(path, body, content_type=APPLY_PATCH, params=parameters)
        except ConflictError:
            raise
        except NotFoundError as exc:
            raise RefusedError(404, f"there is no ScalingJob {namespace}/{name} any more") from exc
        except InvalidError as exc:
            raise RefusedError(422, f"the API server refused the report: {exc.message}") from exc
        except (ServerUnavailableError, TooManyRequestsError) as exc:
            raise _unavailable(exc) from exc
        except ApiError as exc:
            logger.error("cannot store a progress report: %s", exc)
            raise _unavailable(exc) from exc
        stored["metadata"].pop("managedFields", None)
        self._jobs.observe(stored)


async def _read(request: web.Request) -> ProgressReport:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
    except web.HTTPRequestEntityTooLarge as exc:
        raise RefusedError(413, f"a report has at most {MAX_BODY_BYTES} bytes") from exc
    except TimeoutError as exc:
        raise RefusedError(408, f"the report did not arrive within {BODY_TIMEOUT_S:g} s") from exc
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise RefusedError(400, f"the report is not JSON: {exc}") from exc
    try:
        return ProgressReport.model_validate(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the report"
        raise RefusedError(422, f"{where}: {first['msg']} ({exc.error_count()} problems in all)") from exc


def _is_overtaken(report: ProgressReport, status: Object) -> bool:
    """Whether `status` shows a later report of the same attempt, whose driver waits for this one no more.

    Times are whole seconds: of two in the same one, that with the result is the last.
    """
    shown = status.get("progress")
    if status.get("reportedAttempt") != report.attempt or report.progress is None or not shown:
        return False
    if "result" in status and report.result is None:
        return True
    return from_rfc3339(report.progress.updated_at) < from_rfc3339(shown["updatedAt"])


def _unavailable(exc: ApiError) -> RefusedError:
    return RefusedError(
        503, f"the API server cannot be asked now ({exc.reason})", retry_after_s=exc.retry_after_s or RETRY_AFTER_S
    )


def _bounds(job: Object | None) -> list[WorkerBounds]:
    """Those of the worker groups; of a spec that cannot be read, none."""
    cluster = ((job or {}).get("spec") or {}).get("cluster") or {}
    try:
        return [WorkerBounds.model_validate(group) for group in cluster.get("workers") or ()]
    except ValidationError:
        return []


def _answer(
    status: int, message: str, *, retry_after_s: float | None = None, workers: Sequence[WorkerBounds] = ()
) -> web.Response:
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    body = ProgressAnswer(message=message, workers=list(workers))
    return web.Response(
        status=status, body=orjson.dumps(body.to_json_dict()), content_type="application/json", headers=headers
    )
