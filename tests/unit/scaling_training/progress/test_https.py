"""Reports over a real TLS connection, with a CA and a token that change under way."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scaling_api.driver import WorkerBounds
from scaling_training.progress import ProgressModel, https
from scaling_training.progress.https import Endpoint, HttpsShow
from scaling_training.progress.show import Ears

# No request takes as long, and what has to happen happens within the limit, on a loaded machine too.
TIMEOUT_S = 30.0
LIMIT_S = 60.0


class Operator:
    """A server that keeps what it gets and answers as told."""

    def __init__(self, folder: Path) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []  # the next ones; 200 when empty
        self.said = b""
        certificate, key = _self_signed()
        (folder / "server.pem").write_bytes(certificate + key)
        (folder / "ca.crt").write_bytes(certificate)
        (folder / "token").write_text("first\n")
        operator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                operator.got.append((self.headers["Authorization"], body))
                self.send_response(operator.answers.pop(0) if operator.answers else 200)
                self.send_header("Content-Length", str(len(operator.said)))
                self.send_header("Retry-After", "0.05")
                self.end_headers()
                self.wfile.write(operator.said)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.endpoint = Endpoint(
            f"https://127.0.0.1:{self.server.server_port}/progress", folder / "ca.crt", folder / "token"
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while len(self.got) < count:
            assert time.monotonic() < deadline, self.got
            time.sleep(0.01)


def _self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    operator = Operator(tmp_path)
    yield operator
    operator.server.shutdown()
    operator.server.server_close()


@pytest.fixture
def model() -> ProgressModel:
    return ProgressModel("job", 1, ["train", "evaluate"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "LAST_PAUSE_S", 0.01)
    monkeypatch.setattr(https, "TIMEOUT_S", TIMEOUT_S)


def refused_never() -> None:
    raise AssertionError("nobody refused")


DEAF = Ears(superseded=refused_never, bounds=lambda bounds: None)


def test_a_stage_is_reported_at_once_and_steps_are_not(operator: Operator, model: ProgressModel) -> None:
    from scaling_training.train.types import TrainingProgress

    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    operator.wait_for(1)
    for step in range(20):
        model.training(TrainingProgress(epoch=0, epochs=1, step=step, steps=20, workers=1))
    time.sleep(0.2)
    assert len(operator.got) == 1
    model.finish(None)
    show.close()
    assert len(operator.got) == 2
    assert operator.got[-1][1]["progress"]["step"] == 19
    assert operator.got[-1][1]["attempt"] == 1


def test_the_token_is_read_anew_at_each_request(operator: Operator, model: ProgressModel) -> None:
    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    operator.wait_for(1)
    operator.endpoint.token.write_text("second\n")
    model.stage_ended("train", "Succeeded")
    operator.wait_for(2)
    model.finish(None)
    show.close()
    assert [token for token, _ in operator.got][:2] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("status", [503, 429])
def test_a_report_that_comes_inconveniently_is_sent_again_when_told(
    operator: Operator, model: ProgressModel, status: int
) -> None:
    operator.answers = [status]
    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    operator.wait_for(2)
    model.finish(None)
    show.close()


def test_a_proxy_for_the_world_outside_is_not_asked(
    operator: Operator, model: ProgressModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    show = HttpsShow(model, operator.endpoint, DEAF)
    show.start()
    model.stage_started("train")
    operator.wait_for(1)
    model.finish(None)
    show.close()


def test_the_last_report_is_tried_several_times(operator: Operator, model: ProgressModel) -> None:
    operator.answers = [200, 503, 500]
    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    operator.wait_for(1)
    model.finish(None)
    show.close()
    assert len(operator.got) == 4


def test_an_operator_that_is_away_disturbs_nothing(operator: Operator, model: ProgressModel) -> None:
    operator.server.shutdown()
    operator.server.server_close()
    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    model.finish(None)
    began = time.monotonic()
    show.close()
    assert time.monotonic() - began < TIMEOUT_S
    assert operator.got == []


@pytest.mark.parametrize("status", [403, 409])
def test_a_refusal_asks_whether_this_driver_is_superseded(
    operator: Operator, model: ProgressModel, status: int
) -> None:
    operator.answers = [status]
    refused = threading.Event()
    show = HttpsShow(model, operator.endpoint, Ears(refused.set, lambda bounds: None), interval_s=60)
    show.start()
    model.stage_started("train")
    assert refused.wait(LIMIT_S)
    model.finish(None)
    show.close()


def test_a_server_of_another_ca_gets_no_token(operator: Operator, model: ProgressModel) -> None:
    operator.endpoint.ca.write_bytes(_self_signed()[0])
    show = HttpsShow(model, operator.endpoint, DEAF, interval_s=60)
    show.start()
    model.stage_started("train")
    model.finish(None)
    show.close()
    assert operator.got == []


def test_what_is_waited_for_is_reported_again_and_again_as_an_edit_may_change_it(
    operator: Operator, model: ProgressModel
) -> None:
    heard: list[list[WorkerBounds]] = []
    ears = Ears(refused_never, lambda bounds: heard.append(list(bounds)))
    show = HttpsShow(model, operator.endpoint, ears, interval_s=0.05)
    show.start()
    model.stage_started("train")
    model.say("waiting for workers: 1 of 2 slots are there")
    operator.wait_for(3)
    assert heard == [], "an operator that says nothing of them"
    # What this version does not know is no mistake.
    operator.said = b'{"message": "stored", "workers": [{"name": "cpu", "min": 1, "max": 3, "pool": "a"}], "more": 1}'
    operator.wait_for(len(operator.got) + 2)
    model.say("")
    model.finish(None)
    show.close()
    assert heard[0] == [WorkerBounds(name="cpu", min=1, max=3)]


@pytest.mark.parametrize("said", [b"", b"<html>", b'{"workers": [{"name": 1}]}'])
def test_an_answer_that_cannot_be_read_is_no_trouble(operator: Operator, model: ProgressModel, said: bytes) -> None:
    def bounds(heard: object) -> None:
        raise AssertionError(heard)

    operator.said = said
    show = HttpsShow(model, operator.endpoint, Ears(refused_never, bounds), interval_s=60)
    show.start()
    model.stage_started("train")
    operator.wait_for(1)
    model.finish(None)
    show.close()
    assert len(operator.got) == 2
