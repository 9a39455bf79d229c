"""`scalingjob status` against a server that answers what a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scaling_cli import status
from scaling_cli.main import main

Answer = tuple[int, list[dict[str, Any]]]


def _job(version: int, phase: str = "Running", **conditions: str) -> dict[str, Any]:
    entries = [
        {
            "type": kind,
            "status": value,
            "reason": "Why",
            "message": "because",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }
        for kind, value in conditions.items()
    ]
    return {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": "mnist", "namespace": "team", "uid": "u1", "resourceVersion": str(version)},
        "spec": {},
        "status": {"phase": phase, "conditions": entries},
    }


def _failure(code: int) -> Answer:
    return code, [{"kind": "Status", "code": code, "reason": "Reason", "message": "no"}]


def _event(job: dict[str, Any], kind: str = "MODIFIED") -> Answer:
    return 200, [{"type": kind, "object": job}]


DONE = _event(_job(9, "Succeeded", Succeeded="True"))


class Script(ThreadingHTTPServer):
    """Answers reads and watches of the job in order, each list's last one for ever."""

    def __init__(self) -> None:
        self.reads: list[Answer] = [(200, [_job(1)])]
        self.watches: list[Answer] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def answer(self, path: str) -> Answer:
        """What is said next to a request for `path`."""
        if path.startswith("/version"):
            return 200, [{"major": "1", "minor": "30", "gitVersion": "v1.30.0"} | dict.fromkeys(_VERSION, "")]
        answers = self.watches if "watch=" in path else self.reads
        return answers.pop(0) if len(answers) > 1 else answers[0]


_VERSION = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Script)
        code, lines = self.server.answer(self.path)
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    with Script() as script:
        thread = threading.Thread(target=script.serve_forever, args=(0.01,))
        thread.start()
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{script.server_port}"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [cluster],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        _configure(monkeypatch, path)
        yield script
        script.shutdown()
        thread.join()


def _configure(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setattr(status, "RETRY_S", 0.01)


@pytest.mark.parametrize(
    ("reads", "watches"),
    [
        pytest.param([], [_failure(503), DONE], id="unavailable"),
        pytest.param([], [_failure(500), DONE], id="failing"),
        pytest.param([], [_failure(429), DONE], id="busy"),
        pytest.param(
            [],
            [(200, [{"type": "ERROR", "object": _failure(504)[1][0]}]), DONE],
            id="failing within a watch",
        ),
        pytest.param([(200, [_job(2)])], [_failure(410), DONE], id="without history"),
        pytest.param([_failure(503), (200, [_job(2)])], [_failure(410), DONE], id="without history, then unavailable"),
    ],
)
def test_a_server_that_is_away_for_a_while(server: Script, reads: list[Answer], watches: list[Answer]) -> None:
    server.reads += reads
    server.watches = list(watches)
    assert main(["status", "mnist", "--watch"]) == 0


@pytest.mark.parametrize(
    ("reads", "watches", "code"),
    [
        pytest.param([], [_event(_job(9, "Failed", Failed="True"))], status.EXIT_FAILED, id="it failed"),
        pytest.param([], [_event(_job(9), "DELETED")], status.EXIT_GONE, id="it was deleted"),
        pytest.param([_failure(404)], [_failure(410)], status.EXIT_GONE, id="it was deleted unseen"),
        pytest.param([], [_failure(403)], 2, id="it may not be read any more"),
    ],
)
def test_how_it_ends(server: Script, reads: list[Answer], watches: list[Answer], code: int) -> None:
    server.reads += reads
    server.watches = list(watches)
    assert main(["status", "mnist", "--watch"]) == code


def test_a_kubeconfig_that_is_no_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("clusters: [\n")
    _configure(monkeypatch, path)
    assert main(["status", "mnist"]) == 2
    assert "kubeconfig is no YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(None, "cannot be read: Is a directory", id="a folder"),
        pytest.param(b"hello world", "is no kubeconfig", id="plain text"),
        pytest.param(b"[1, 2]", "is no kubeconfig", id="a list"),
        pytest.param(b"clusters: 3", "is no kubeconfig", id="of another form"),
        pytest.param(b"\xff\xfe\x00", "is no kubeconfig", id="no text"),
        pytest.param(b"", "no cluster to talk to", id="empty"),
    ],
)
def test_what_is_no_kubeconfig_is_answered_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    sentence: str,
) -> None:
    path = tmp_path / "kubeconfig"
    path.mkdir() if content is None else path.write_bytes(content)
    _configure(monkeypatch, path)
    assert main(["status", "mnist"]) == 2
    assert sentence in (said := capsys.readouterr().err)
    assert str(path) in said or "KUBECONFIG" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param("no-such-plugin", "No such file or directory: 'no-such-plugin'", id="that is not there"),
        pytest.param("false", "process returned 1", id="that fails"),
        pytest.param("true", "failed to decode process output", id="that says nothing"),
    ],
)
def test_a_credential_plugin_is_answered_in_one_line(
    server: Script, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, reason: str
) -> None:
    path = tmp_path / "kubeconfig"
    config = json.loads(path.read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}
    config["users"] = [{"name": "u", "user": {"exec": plugin}}]
    path.write_text(json.dumps(config))
    assert main(["status", "mnist"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"scalingjob: the kubeconfig {path} gives no credentials: ")
    assert reason in said
    assert said.count("\n") == 1
