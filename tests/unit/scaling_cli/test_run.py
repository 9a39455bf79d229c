"""`scalingjob run` as far as it comes without Ray: whether it may begin, and what it leaves when it may not."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling_cli.main import main
from scaling_training.lease import Holder
from scaling_training.ledger import Ledger
from scaling_training.storage import Storage
from tests.unit.scaling_training.data.folders import fill


def a_manifest(folder: Path, **dataset: Any) -> str:
    file = folder / "job.yaml"
    job = {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": "job"},
        "spec": {
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits", **dataset},
            "training": {"epochs": 1, "optimizer": {"name": "adam", "learningRate": 0.001}},
        },
    }
    file.write_text(yaml.safe_dump(job))
    return str(file)


def test_a_folder_that_is_in_use_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    Ledger(Storage(str(folder)), attempt=1).claim({"process": asdict(Holder.this()), "renewedAt": time.time()})
    assert main(["run", a_manifest(tmp_path), "--resume", str(folder)]) == 2
    assert f"{folder} is in use by process {Holder.this().pid} on" in capsys.readouterr().err
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["0001.json"], "nothing was touched"


def test_to_force_a_new_run_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", a_manifest(tmp_path), "--force"]) == 2
    assert "name it by --resume" in capsys.readouterr().err


@pytest.mark.parametrize("place", [[], ["--run-dir", "kept/here"]], ids=["the default", "a named folder"])
def test_a_refused_run_leaves_no_folder(
    tmp_path: Path, place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = a_manifest(tmp_path, name="image-folder", uri=str(tmp_path / "nothing"))
    assert main(["run", manifest, *place]) == 2
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "kept/here").exists()


def test_what_a_refusal_speaks_of_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "data", {"iris": 20, "rose": 20})
    (tmp_path / "data/iris/005.png").write_bytes(b"no picture")
    manifest = a_manifest(tmp_path, name="image-folder", uri=str(tmp_path / "data"), imageSize=8)
    assert main(["run", manifest, "--run-dir", "refused"]) == 2
    assert "mend or remove those that analysis.json names" in capsys.readouterr().err
    assert (tmp_path / "refused/analysis.json").exists()


def test_a_refused_resume_leaves_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    Ledger(Storage(str(folder)), attempt=1).claim({})
    manifest = a_manifest(tmp_path, name="image-folder", uri=str(tmp_path / "nothing"))
    assert main(["run", manifest, "--resume", str(folder)]) == 2
    assert (folder / "attempts/0001.json").exists()


def test_a_home_is_known_by_its_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Ledger(Storage(str(tmp_path / "a run")), attempt=1).claim(
        {"process": asdict(Holder.this()), "renewedAt": time.time()}
    )
    assert main(["run", a_manifest(tmp_path), "--resume=~/a run"]) == 2
    assert f"{tmp_path}/a run is in use by process" in capsys.readouterr().err


def test_a_home_that_nobody_knows_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", a_manifest(tmp_path), "--run-dir", "~nobody-of-this-name/run"]) == 2
    assert "name the folder by its whole path" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["the folder", "the working directory"])
def test_a_place_that_is_no_utf_8_is_refused(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / os.fsdecode("caf\u00e9".encode("latin-1"))
    latin.mkdir()
    monkeypatch.chdir(latin if place == "the working directory" else tmp_path)
    named = [] if place == "the working directory" else ["--run-dir", str(latin / "run")]
    assert main(["run", a_manifest(tmp_path), *named]) == 2
    assert "is no UTF-8, which the files of a run must name it in" in capsys.readouterr().err
    assert list(latin.iterdir()) == []
