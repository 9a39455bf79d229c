from __future__ import annotations

import pytest

from scaling_operator.runtime import errors

ROWS = [
    pytest.param(404, "NotFound", errors.NotFoundError, id="404 is not found"),
    pytest.param(409, "AlreadyExists", errors.AlreadyExistsError, id="409 by reason: already exists"),
    pytest.param(409, "Conflict", errors.ConflictError, id="409 by reason: conflict"),
    pytest.param(410, "Expired", errors.ExpiredError, id="410 Expired"),
    pytest.param(410, "Gone", errors.ExpiredError, id="410 Gone"),
    pytest.param(422, "Invalid", errors.InvalidError, id="422 is invalid"),
    pytest.param(400, "BadRequest", errors.InvalidError, id="400 is invalid"),
    pytest.param(405, "MethodNotAllowed", errors.InvalidError, id="an unlisted 4xx is the request's fault"),
    pytest.param(401, "Unauthorized", errors.UnauthorizedError, id="401"),
    pytest.param(403, "Forbidden", errors.ForbiddenError, id="403"),
    pytest.param(429, "TooManyRequests", errors.TooManyRequestsError, id="429"),
    pytest.param(500, "InternalError", errors.ServerUnavailableError, id="500"),
    pytest.param(504, "Timeout", errors.ServerUnavailableError, id="504"),
]


@pytest.mark.parametrize(("status", "reason", "cls"), ROWS)
def test_the_class_tells_the_reaction(status: int, reason: str, cls: type[errors.ApiError]) -> None:
    error = errors.from_status(status, {"reason": reason, "message": "why"})
    assert type(error) is cls
    assert (error.status, error.reason, error.message) == (status, reason, "why")


def test_an_answer_that_is_no_status_object_keeps_its_text() -> None:
    error = errors.from_status(502, None, fallback="<html>bad gateway</html>")
    assert isinstance(error, errors.ServerUnavailableError)
    assert error.message == "<html>bad gateway</html>"


def test_retry_after_is_read_from_the_details() -> None:
    error = errors.from_status(429, {"reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}})
    assert error.retry_after_s == 7
