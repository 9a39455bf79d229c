"""Progress to the operator, by HTTPS.

A thread of its own posts the latest state at most every PROGRESS_INTERVAL_S, and at once when a stage begins or ends.
While something is waited for it posts although nothing changes, because the answer may change that: it tells the
worker groups' bounds, as they are edited. A report is complete in itself, so one that is lost is made good by the
next; only the last is tried again, a few times and no more, as the driver that holds a cluster leaves it in its
termination message too. An operator that is away costs nothing but the report; one that is busy says when to come
again.

The token and the CA are read anew at each request, because both are rotated under us. An answer of 403 or 409
says that the operator takes another pod for the current head: then the ledger is asked who is right.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from scaling_api.driver import PROGRESS_INTERVAL_S, ProgressAnswer
from scaling_training.progress.model import ProgressModel, Snapshot
from scaling_training.progress.show import Ears, ThreadedShow

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
LAST_TRIES = 4
LAST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
_NOT_CURRENT = (403, 409)
_TOO_OFTEN = 429


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where reports go, and what they show."""

    url: str
    ca: Path
    token: Path


class HttpsShow(ThreadedShow):
    """Posts reports, and passes on to ``ears`` what the operator answers."""

    def __init__(
        self,
        model: ProgressModel,
        endpoint: Endpoint,
        ears: Ears,
        interval_s: float = PROGRESS_INTERVAL_S,
    ) -> None:
        super().__init__(model, name="progress-https")
        self._endpoint = endpoint
        self._ears = ears
        self._interval_s = interval_s
        self._warned = False

    def run(self) -> None:
        """Until the run ends; the last report is tried several times."""
        landmark, revision, pause_s = 0, 0, self._interval_s
        while True:
            snapshot = self.model.wait(landmark, timeout_s=pause_s, landmarks=True)
            if snapshot.ended or self.closing.is_set():
                break
            pause_s = self._interval_s
            if snapshot.revision != revision or snapshot.message:
                # Changes that come together, such as one stage's end and the next one's start, go together.
                time.sleep(0.05)
                snapshot = self.model.snapshot()
                landmark, revision = snapshot.landmark, snapshot.revision
                again_after_s = self._post(snapshot)
                if again_after_s is not None:
                    # With 0 nobody said when: the next report will do.
                    revision, pause_s = -1, min(again_after_s or self._interval_s, self._interval_s)
        self._post_last()

    def _post_last(self) -> None:
        for number in range(1, LAST_TRIES + 1):
            again_after_s = self._post(self.model.snapshot())
            if again_after_s is None or number == LAST_TRIES:
                return
            time.sleep(min(max(again_after_s, LAST_PAUSE_S * number), LONGEST_PAUSE_S))

    def _post(self, snapshot: Snapshot) -> float | None:
        """Post; None when the report arrived or never will, else after how many seconds to try again (0: unknown)."""
        import requests

        try:
            with requests.Session() as session:
                # The operator is in the cluster: a proxy that user code needs for the world outside, or a netrc,
                # is not for it.
                session.trust_env = False
                answer = session.post(
                    self._endpoint.url,
                    json=snapshot.report().to_json_dict(),
                    headers={"Authorization": f"Bearer {self._endpoint.token.read_text().strip()}"},
                    verify=str(self._endpoint.ca),
                    timeout=TIMEOUT_S,
                )
        except (requests.RequestException, OSError) as error:
            self._warn(f"{type(error).__name__}: {error}")
            return 0.0
        if answer.ok:
            self._warned = False
            self._hear(answer.content)
            return None
        if answer.status_code == _TOO_OFTEN:
            return _seconds(answer.headers.get("Retry-After"))
        self._warn(f"HTTP {answer.status_code}: {answer.text[:200]}")
        if answer.status_code in _NOT_CURRENT:
            self._ears.superseded()
            return None
        return _seconds(answer.headers.get("Retry-After"))

    def _hear(self, body: bytes) -> None:
        try:
            bounds = ProgressAnswer.model_validate_json(body).workers
        except ValidationError:  # of an operator that says no more than that the report arrived
            return
        if bounds:
            self._ears.bounds(bounds)

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("A progress report did not reach the operator, training goes on: %s", why)


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
