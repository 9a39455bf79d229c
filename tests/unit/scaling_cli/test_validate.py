from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from scaling_cli.main import main

_RIGHT = """\
apiVersion: scaling.dev/v1alpha1
kind: ScalingJob
metadata: {name: mnist}
spec:
  storage: {claimName: runs}
  model: {name: small-cnn}
  dataset: {name: digits}
  training:
    epochs: 2
"""
_WRONG = _RIGHT.replace("    epochs: 2", "    epoch: 2\n    batchSize: 0")
_CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\n"


def _file(tmp_path: Path, text: str, name: str = "job.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_right_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, _RIGHT)
    assert main(["validate", file]) == 0
    assert capsys.readouterr().out == f"{file}:1: OK: ScalingJob mnist\n"


def test_a_line_per_problem_in_the_order_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, _WRONG)
    assert main(["validate", file]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{file}:9: spec.training.epoch: unknown field; did you mean epochs?",
        f"{file}:10: spec.training.batchSize: must be at least 1, not 0",
    ]


def test_several_files_and_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = _file(tmp_path, f"{_CLAIM}---\n{_RIGHT}", "one.yaml")
    two = _file(tmp_path, _WRONG, "two.yaml")
    assert main(["validate", one, two]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{one}:1: PersistentVolumeClaim: not checked", f"{one}:4: OK: ScalingJob mnist"]
    assert len(lines) == 4


def test_a_file_that_cannot_be_read_hides_no_other_files_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, claim = _file(tmp_path, _RIGHT), _file(tmp_path, _CLAIM, "claim.yaml")
    wrong, missing = _file(tmp_path, _WRONG, "wrong.yaml"), str(tmp_path / "missing.yaml")
    assert main(["validate", right, missing, claim, wrong]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == f"{right}:1: OK: ScalingJob mnist"
    assert said.out.splitlines()[1].startswith(f"{wrong}:9: spec.training.epoch: ")
    assert said.err.splitlines() == [
        f"scalingjob: {missing}: no such file",
        f"{claim} holds no ScalingJob; it holds PersistentVolumeClaim",
    ]
    assert main(["validate", "--output", "json", right, missing]) == 2
    assert [record["valid"] for record in json.loads(capsys.readouterr().out)] == [True]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(_WRONG))
    assert main(["validate", "-"]) == 1
    assert capsys.readouterr().out.startswith("<stdin>:9: spec.training.epoch")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, _WRONG)
    assert main(["validate", "--output", "json", file]) == 1
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["file"], record["name"], record["valid"]) == (file, "mnist", False)
    assert record["problems"][0] == {
        "line": 9,
        "field": "spec.training.epoch",
        "message": "unknown field",
        "suggestion": "did you mean epochs?",
    }


def test_for_this_machine_no_storage_is_needed(tmp_path: Path) -> None:
    file = _file(tmp_path, _RIGHT.replace("  storage: {claimName: runs}\n", ""))
    assert main(["validate", file]) == 1
    assert main(["validate", "--local", file]) == 0


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("small-cnn", "resnet18, width: 0.5", ":6: spec.model.width: 0.5: resnet18 has no width"),
        ("small-cnn", "alexnet", ":6: spec.model: model alexnet cannot take the data set's images of 8x8 pixels"),
        ("small-cnn", "small-cnn, weights: {uri: /nowhere.pt}", ":6: spec.model.weights.uri: /nowhere.pt is not there"),
        ("digits", "image-folder, uri: /nowhere", ":7: spec.dataset.uri: /nowhere does not exist on this machine"),
        (
            "{name: small-cnn}",
            "{factory: mine:task}\n  code: {uri: /nowhere.py}",
            ":7: spec.code.uri: /nowhere.py is not",
        ),
    ],
    ids=["a width", "images too small", "no weights", "no data", "no code"],
)
def test_for_this_machine_the_files_and_what_fits_together_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, sentence: str
) -> None:
    file = _file(tmp_path, _RIGHT.replace(old, new))
    assert main(["validate", "--local", file]) == 1
    assert capsys.readouterr().out.startswith(f"{file}{sentence}")


def test_a_store_that_does_not_answer_hides_no_other_files_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(dataset: object) -> None:
        raise ConnectionError("Could not connect to the endpoint URL s3://key:secret@bucket")

    monkeypatch.setattr("scaling_training.data.open_dataset", fails)
    one, two = _file(tmp_path, _RIGHT, "one.yaml"), _file(tmp_path, _WRONG, "two.yaml")
    assert main(["validate", "--local", one, two]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{one}:4: spec: what it names could not be looked at: Could not connect")
    assert "secret" not in lines[0]
    assert len(lines) == 3


def test_validating_runs_no_code_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    file = _file(tmp_path, _RIGHT.replace("{name: small-cnn}", f"{{factory: mine:f}}\n  code: {{uri: {tmp_path}}}"))
    assert main(["validate", "--local", file]) == 0
    assert "warning: model.factory is called by the run alone" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_what_only_the_operator_refuses_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, f"{_RIGHT}  cluster:\n    podOverrides:\n      spec: {{hostNetwork: true}}\n")
    assert main(["validate", file]) == 0
    warning, verdict = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"{file}:11: warning: spec.cluster.podOverrides.spec.hostNetwork cannot be overridden")
    assert verdict == f"{file}:1: OK: ScalingJob mnist"


def test_what_no_secret_holds_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = f"podOverrides: {{metadata: {{annotations: {{note: {'x' * 400_000}}}}}}}"
    assert main(["validate", _file(tmp_path, f"{_RIGHT}  cluster:\n    {note}\n")]) == 0
    warning, _ = capsys.readouterr().out.splitlines()
    assert "warning: spec and pod templates take 1," in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("a: [", "not YAML"),
        (_CLAIM, "holds no ScalingJob; it holds PersistentVolumeClaim"),
    ],
)
def test_what_cannot_be_checked_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    file = str(tmp_path / "job.yaml") if text is None else _file(tmp_path, text)
    assert main(["validate", file]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("scalingjob: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
