from __future__ import annotations

from typing import Any

import pytest

from scaling_operator.server.senders import Admit, Later, Refuse, judge_sender
from scaling_operator.server.tokens import PodIdentity

HEAD = PodIdentity("team", "mnist-2-head", "pod-uid")


def job(attempt: int | None = 2) -> dict[str, Any]:
    return {"metadata": {"name": "mnist", "uid": "job-uid"}, "status": {"attempt": attempt} if attempt else {}}


def pod(**changes: Any) -> dict[str, Any]:
    metadata = {
        "name": "mnist-2-head",
        "uid": "pod-uid",
        "labels": {"scaling.dev/job": "mnist", "scaling.dev/attempt": "2", "scaling.dev/role": "head"},
        "ownerReferences": [{"uid": "job-uid", "controller": True}],
    }
    return {"metadata": metadata | changes}


ROWS: list[Any] = [
    pytest.param(HEAD, 2, job(), pod(), Admit, None, id="the current head"),
    pytest.param(HEAD, 2, job(), pod(deletionTimestamp="now"), Admit, None, id="the head while it ends"),
    pytest.param(HEAD, 2, job(), pod(uid="other"), Refuse, 403, id="a pod of the same name, later"),
    pytest.param(HEAD, 2, job(), pod(ownerReferences=[]), Refuse, 403, id="a pod that only has the labels"),
    pytest.param(
        HEAD, 2, job(), pod(ownerReferences=[{"uid": "job-uid"}]), Refuse, 403, id="a pod that claims an owner"
    ),
    pytest.param(HEAD, 2, job(), pod(labels={}), Refuse, 403, id="a pod without labels"),
    pytest.param(PodIdentity("team", "mnist-2-w-0-0", "u"), 2, job(), pod(), Refuse, 403, id="a worker"),
    pytest.param(PodIdentity("other", "mnist-2-head", "u"), 2, job(), pod(), Refuse, 403, id="another namespace"),
    pytest.param(PodIdentity("team", "mnist-1-head", "u"), 2, job(), pod(), Refuse, 403, id="an old head that lies"),
    pytest.param(PodIdentity("team", "mnist-1-head", "u"), 1, job(), None, Refuse, 409, id="an old head"),
    pytest.param(HEAD, 2, None, pod(), Refuse, 404, id="no such job"),
    pytest.param(HEAD, 2, job(1), pod(), Later, None, id="the cache does not show the attempt yet"),
    pytest.param(HEAD, 2, job(None), pod(), Later, None, id="the cache shows no attempt yet"),
    pytest.param(HEAD, 2, job(), None, Later, None, id="the cache does not show the pod yet"),
]


@pytest.mark.parametrize(("sender", "attempt", "of", "seen", "verdict", "status"), ROWS)
def test_judge_sender(sender: PodIdentity, attempt: int, of: Any, seen: Any, verdict: type, status: int | None) -> None:
    judged = judge_sender(sender, namespace="team", job_name="mnist", attempt=attempt, job=of, pod=seen)
    assert type(judged) is verdict
    assert getattr(judged, "status", None) == status
