from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling_cli.main import main
from tests.unit.scaling_operator.builders import EVERY_OPTION, job


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(EVERY_OPTION, namespace=None, uid=None).to_json_dict()))
    return path


def rendered(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_the_objects_of_an_attempt_are_printed(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(manifest), "--namespace", "team", "--attempt", "3"]) == 0
    objects = rendered(capsys)
    assert [(item["kind"], item["metadata"]["name"]) for item in objects] == [
        ("NetworkPolicy", "mnist-3"),
        ("Secret", "mnist-3"),
        ("Pod", "mnist-3-head"),
        ("Service", "mnist-3"),
        *(("Pod", f"mnist-3-gpu-{index}-0") for index in range(4)),
        *(("Pod", f"mnist-3-cpu-{index}-0") for index in range(2)),
    ]
    assert {item["metadata"]["namespace"] for item in objects} == {"team"}
    secret = objects[1]["stringData"]
    assert secret["ray-token"] == "<made by the operator>"
    assert '"name":"mnist"' in secret["manifest.json"]


def test_a_job_without_its_own_account_gets_the_shared_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(namespace=None).to_json_dict()))
    assert main(["render", str(path), "--image", "mine:1"]) == 0
    _, account, *_, worker = rendered(capsys)
    assert (account["kind"], account["metadata"]["namespace"]) == ("ServiceAccount", "default")
    assert worker["spec"]["containers"][0]["image"] == "mine:1"


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        pytest.param({"training": {"epochs": 0}}, [], "epochs", id="wrong field"),
        pytest.param({"storage": None}, [], "storage is missing", id="no storage"),
        pytest.param(
            {"cluster": {"podOverrides": {"spec": {"hostPID": True}}}}, [], "podOverrides.spec.hostPID", id="override"
        ),
        pytest.param({}, ["--attempt", "0"], "--attempt is 0", id="attempt"),
        pytest.param({}, ["--attempt", "10000"], "counted from 1 to 9999", id="attempt too high"),
        pytest.param({}, ["--namespace", "Team_A"], '--namespace: "Team_A" is not the name', id="namespace"),
        pytest.param({}, ["--namespace", ""], '--namespace: "" is not the name', id="no namespace"),
        pytest.param({}, ["--operator-namespace", "a b"], '--operator-namespace: "a b" is not', id="its namespace"),
        pytest.param({}, ["--image", "a b"], '--image: "a b" is not an image reference', id="image"),
        pytest.param({}, ["--image", ""], "--image: must have at least 1 character", id="no image"),
    ],
)
def test_what_the_operator_would_refuse_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, arguments: list[str], named: str
) -> None:
    path = tmp_path / "job.yaml"
    manifest = job(namespace=None).to_json_dict()
    manifest["spec"] |= change
    path.write_text(yaml.safe_dump(manifest))
    assert main(["render", str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert named in captured.err
    assert captured.out == ""
