"""API errors sorted by the reaction they call for, not by HTTP number.

A caller catches the class that it can do something about and lets the rest reach the controller, which logs
it once and retries the key. `from_status` is the only place that knows status codes and `Status` reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The API server refused or failed a request.

    `status` is the HTTP status (0 when no answer came), `reason` the machine-readable word of the server's
    `Status` object, `message` its sentence, `details` its `details` field.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after_s = retry_after_s


class NotFoundError(ApiError):
    """404: the object, its namespace or its kind does not exist."""


class AlreadyExistsError(ApiError):
    """409 AlreadyExists: a create met an object of that name; read it to see whether it is ours."""


class ConflictError(ApiError):
    """409 Conflict: a precondition (resourceVersion, uid, field ownership) failed; read again, decide again."""


class ExpiredError(ApiError):
    """410: the resourceVersion or continue token is older than the server's history; list again."""


class InvalidError(ApiError):
    """400/422 and other refusals of the request itself: repeating it unchanged cannot help."""


class UnauthorizedError(ApiError):
    """401: the credentials are not accepted (any more)."""


class ForbiddenError(ApiError):
    """403: a right is missing, a quota is used up, or an admission rule refused the object."""


class TooManyRequestsError(ApiError):
    """429: the server sheds load or an eviction budget is used up; `retry_after_s` says when to come back."""


class ServerUnavailableError(ApiError):
    """5xx, timeouts and broken connections: whether a write happened is unknown; retry later."""


_BY_REASON: dict[str, type[ApiError]] = {
    "AlreadyExists": AlreadyExistsError,
    "Expired": ExpiredError,
    "Gone": ExpiredError,
}

_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: ServerUnavailableError,
    409: ConflictError,
    410: ExpiredError,
    429: TooManyRequestsError,
}


def from_status(
    code: int, body: Mapping[str, Any] | None, *, fallback: str = "", retry_after_s: float | None = None
) -> ApiError:
    """Build the error for HTTP status `code` with the decoded `Status` object `body`, if there was one.

    `fallback` is the sentence used when the answer was no `Status` (a proxy's HTML page, say).
    """
    body = body or {}
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or fallback or "no explanation given")
    details = body.get("details")
    details = details if isinstance(details, Mapping) else {}
    if retry_after_s is None and isinstance(details.get("retryAfterSeconds"), int):
        retry_after_s = float(details["retryAfterSeconds"])
    cls = _BY_REASON.get(reason) or _BY_STATUS.get(code)
    if cls is None:
        cls = ServerUnavailableError if code >= 500 else InvalidError
    return cls(code, reason or f"HTTP {code}", message, details=details, retry_after_s=retry_after_s)
