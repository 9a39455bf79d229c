"""The real stages over a real training in one process, without Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaling_api.spec import DatasetSpec, ScalingJobSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.engine.run import Watch
from scaling_training.engine.worker import Training, WorkerTask
from scaling_training.errors import UserError
from scaling_training.ledger import Ledger, SupersededError
from scaling_training.progress import ProgressModel
from scaling_training.report.artifact import load_model
from scaling_training.stages import STAGES, Stage
from scaling_training.stages.base import Run
from scaling_training.stages.pipeline import run_stages
from scaling_training.stages.train import STAGE as TRAIN
from scaling_training.storage import Storage
from scaling_training.train.loop import train
from scaling_training.train.types import TrainOutcome
from scaling_training.world import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill

WATCH = Watch(
    progress=lambda progress: None,
    say=lambda sentence: None,
    mark=lambda name, at=0.0: None,
    stop_requested=lambda: False,
)


class OneProcess:
    """The engine without Ray."""

    def __init__(self) -> None:
        self.jobs: list[Training] = []

    def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
        assert isinstance(task.job, Training)
        self.jobs.append(task.job)
        return train(
            ScalingJobSpec.model_validate(task.spec),
            storage=Storage(task.storage_root),
            attempt=task.attempt,
            world=World(rank=0, size=1, device=torch.device("cpu")),
            observer=watch.progress,
            stop_requested=watch.stop_requested,
            key=task.job.key,
            resume=task.job.resume,
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def go(
    folder: Path, *, attempt: int = 1, previous: Path | None = None, spec: ScalingJobSpec | None = None
) -> tuple[dict[str, str], OneProcess]:
    engine = OneProcess()
    storage = Storage(str(folder))
    earlier = Storage(str(previous)) if previous else None
    ledger = Ledger(storage, attempt=attempt, previous=earlier)
    run = Run("job", spec or a_spec(), storage, attempt, earlier, engine, WATCH, ledger.publish)
    ledger.claim({})
    records = run_stages(STAGES, run, ledger, ProgressModel("job", attempt, [stage.name for stage in STAGES]))
    return {name: record.state for name, record in records.items()}, engine


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    states, _ = go(folder)
    assert set(states.values()) == {"Succeeded"}
    return folder


def test_the_report_holds_model_curves_and_metrics(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["test"]["samples"] > 300
    assert len(metrics["test"]["per_class"]) == 10
    assert metrics["overfitting"] == {"onsetEpoch": None}
    assert [row["epoch"] for row in json.loads((finished / "curves.json").read_text())] == [1, 2]
    trained = load_model(str(finished / "model"))
    assert trained.input_shape == (1, 8, 8)
    assert not trained.model.training


def test_another_run_reuses_training_and_evaluation_but_makes_its_own_report(finished: Path, tmp_path: Path) -> None:
    states, engine = go(tmp_path, previous=finished)
    assert states == {"analyze": "Reused", "train": "Reused", "evaluate": "Reused", "report": "Succeeded"}
    assert (tmp_path / "analysis.json").read_bytes() == (finished / "analysis.json").read_bytes()
    assert engine.jobs == []
    assert (tmp_path / "model/model.safetensors").read_bytes() == (finished / "model/model.safetensors").read_bytes()


def test_an_unfinished_training_of_another_run_is_gone_on_with(finished: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for part in ("checkpoints", "curves", "attempts"):
        (unfinished / part).symlink_to(finished / part)
    states, engine = go(tmp_path / "run", previous=unfinished)
    assert states["train"] == "Succeeded"
    resume = engine.jobs[0].resume
    assert resume is not None
    assert resume.root == str(unfinished)


@pytest.mark.parametrize("training", [{}, {"parallelism": {"auto": True}}], ids=["a mesh by name", "a mesh chosen"])
@pytest.mark.parametrize("where", ["of this run", "of another run"])
def test_whatever_asks_for_it_a_checkpoint_is_read_once(
    tmp_path: Path, where: str, training: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = a_spec(epochs=1, **training)
    go(tmp_path, spec=spec)
    (tmp_path / "ledger/attempt-0001/train.json").unlink()
    reads: list[str] = []
    read = Storage.read

    def counted(storage: Storage, name: str) -> bytes:
        reads.append(name)
        return read(storage, name)

    monkeypatch.setattr(Storage, "read", counted)
    if where == "of this run":
        go(tmp_path, attempt=2, spec=spec)
    else:
        go(tmp_path / "run", previous=tmp_path, spec=spec)
    files = [name.rpartition("/")[2] for name in reads if "/step-" in name]
    # Another run's report is made anew, from weights and curves.
    report = 0 if where == "of this run" else 1
    expected = {"optimizer.safetensors": 1, "history.jsonl": 1 + report, "model.safetensors": 1 + report}
    assert {name: files.count(name) for name in expected} == expected


def test_a_run_that_fits_no_checkpoint_of_the_one_it_resumes_from_is_told_what_differs(
    finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"resumeFrom: the checkpoints in .* are of other work: training.epochs is 2 there and 4 here;"
    ):
        go(tmp_path / "run", previous=finished, spec=a_spec(epochs=4))
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_resumes_from_no_checkpoint_where_there_never_was_one(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/attempts").symlink_to(finished / "attempts")
    states, _ = go(tmp_path / "run", previous=tmp_path / "killed", spec=a_spec(epochs=1))
    assert states["train"] == "Succeeded"
    assert "killed, which resumeFrom names, has no checkpoint" in caplog.text


def test_an_edit_that_trains_anew_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go(tmp_path, spec=a_spec(epochs=1))
    assert "anew" not in caplog.text
    go(tmp_path, spec=a_spec(epochs=1, seed=1), attempt=2)
    assert "Training starts anew: the checkpoints in" in caplog.text
    assert "training.seed is 0 there and 1 here" in caplog.text


def test_a_run_goes_on_with_its_own_checkpoints_first(finished: Path, tmp_path: Path) -> None:
    go(tmp_path / "run", spec=a_spec())
    (tmp_path / "run/ledger/attempt-0001/train.json").unlink()
    _, engine = go(tmp_path / "run", attempt=2, previous=finished.parent / "nothing")
    assert [job.resume for job in engine.jobs] == [None]


def test_the_driver_finds_what_processes_saved_that_see_the_data_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(spec: DatasetSpec) -> Dataset:
        return replace(open_dataset(spec), _fingerprint=lambda: "of a copy with other times")

    monkeypatch.setattr("scaling_training.train.setup.open_dataset", elsewhere)
    _, engine = go(tmp_path)
    keys = {json.loads(file.read_bytes())["key"] for file in tmp_path.glob("checkpoints/*/*/MANIFEST.json")}
    assert keys == {engine.jobs[0].key}


def test_a_report_whose_checkpoint_was_damaged_meanwhile_says_so_and_what_to_do(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/ledger/attempt-0001/report.json").unlink()
    for file in (tmp_path / "run").glob("checkpoints/*/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"checkpoint .*step-.* cannot be used: model.safetensors has .*; delete it and"
    ):
        go(tmp_path / "run", attempt=2)


@pytest.mark.parametrize(
    "stage", [stage for stage in STAGES if stage.name in ("analyze", "report")], ids=lambda stage: stage.name
)
def test_a_driver_that_a_later_attempt_took_over_from_overwrites_none_of_its_files(
    tmp_path: Path, finished: Path, stage: Stage
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    storage = Storage(str(tmp_path / "run"))
    ledgers = [Ledger(storage, attempt=attempt) for attempt in (2, 3)]
    for ledger in ledgers:
        ledger.claim({})
    shared = [
        "analysis.json",
        "curves.json",
        "curves.png",
        "metrics.json",
        *(f"model/{name}" for name in storage.names("model")),
    ]
    for name in shared:
        storage.write(name, b"of the third attempt")

    run = Run("job", a_spec(), storage, 2, None, OneProcess(), WATCH, ledgers[0].publish)
    records = finished / "ledger/attempt-0001"
    inputs = {name: json.loads((records / f"{name}.json").read_bytes())["output"] for name in stage.inputs}
    with pytest.raises(SupersededError):
        stage.run(run, inputs)
    assert {storage.read(name) for name in shared} == {b"of the third attempt"}


def test_a_training_whose_best_checkpoint_is_gone_is_done_again(tmp_path: Path) -> None:
    go(tmp_path)
    for manifest in tmp_path.glob("checkpoints/*/*/MANIFEST.json"):
        manifest.unlink()
    states, engine = go(tmp_path, attempt=2)
    # Metrics and model of the old training say nothing of the new one.
    assert states == {"analyze": "Reused", "train": "Succeeded", "evaluate": "Succeeded", "report": "Succeeded"}
    assert len(engine.jobs) == 1


def test_a_checkpoint_of_another_version_is_not_trained_over(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for manifest in tmp_path.glob("run/checkpoints/*/*/MANIFEST.json"):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    before = contents(tmp_path / "run/checkpoints")
    for attempt, spec in ((2, a_spec()), (3, a_spec(epochs=3))):
        with pytest.raises(UserError, match=r"run/checkpoints/.*/MANIFEST.json has format 99, and this version reads"):
            go(tmp_path / "run", attempt=attempt, spec=spec)
    with pytest.raises(UserError, match=r"run/checkpoints/.*/MANIFEST.json has format 99, and this version reads"):
        go(tmp_path / "later", previous=tmp_path / "run", spec=a_spec(epochs=3))
    assert contents(tmp_path / "run/checkpoints") == before


def test_a_run_whose_manifests_are_damaged_is_not_resumed_from_as_if_it_had_none(
    tmp_path: Path, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for manifest in tmp_path.glob("run/checkpoints/*/*/MANIFEST.json"):
        manifest.write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged, and so are those before it: put its files back"):
        go(tmp_path / "later", previous=tmp_path / "run")


@pytest.mark.parametrize(
    ("manifest", "said"), [(b"", "is damaged"), (b'{"format": 99}', "has format 99")], ids=["damaged", "foreign"]
)
def test_nor_does_that_hinder_a_run_that_has_gone_on_from_it(
    tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture, manifest: bytes, said: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(finished, tmp_path / "later")
    for folder in ("run", "later"):
        (tmp_path / folder / "ledger/attempt-0001/train.json").unlink()
    for file in tmp_path.glob("run/checkpoints/*/*/MANIFEST.json"):
        file.write_bytes(manifest)
    states, engine = go(tmp_path / "later", attempt=2, previous=tmp_path / "run")
    assert states["train"] == "Succeeded"
    assert [job.resume for job in engine.jobs] == [None]
    assert said in caplog.text
    assert "goes on from this run's own checkpoints" in caplog.text


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_best_checkpoint_that_another_run_lost_meanwhile_is_said(tmp_path: Path, finished: Path, harm: str) -> None:
    another = tmp_path / "another"
    shutil.copytree(finished, another)
    output = json.loads((finished / "ledger/attempt-0001/train.json").read_bytes())["output"]
    output["best"]["root"] = str(another)
    for manifest in another.glob("checkpoints/*/*/MANIFEST.json"):
        manifest.write_bytes(b"") if harm == "damaged" else manifest.unlink()
    storage = Storage(str(tmp_path / "run"))
    run = Run("job", a_spec(), storage, 1, None, OneProcess(), WATCH, Ledger(storage, attempt=1).publish)
    with pytest.raises(
        UserError, match=r"checkpoint .*step-.* of .*another cannot be used: MANIFEST.json is .*; delete"
    ):
        TRAIN.seal(run, {**output, "checkpoint": None})


def test_an_edit_taken_back_has_its_own_report_again(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    weights = (finished / "model/model.safetensors").read_bytes()
    go(tmp_path / "run", attempt=2)
    go(tmp_path / "run", attempt=3, spec=a_spec(seed=1))
    assert (tmp_path / "run/model/model.safetensors").read_bytes() != weights
    states, _ = go(tmp_path / "run", attempt=4)
    assert states == {"analyze": "Reused", "train": "Reused", "evaluate": "Reused", "report": "Succeeded"}
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    for name in ("metrics.json", "curves.json"):
        assert json.loads((tmp_path / "run" / name).read_text()) == json.loads((finished / name).read_text())


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_report_whose_files_are_not_as_it_made_them_is_made_again(tmp_path: Path, finished: Path, harm: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    states, _ = go(tmp_path / "run", attempt=2)
    assert states["report"] == "Succeeded", "it lies in another folder than it was made in"
    states, _ = go(tmp_path / "run", attempt=3)
    assert states["report"] == "Reused"
    model = tmp_path / "run/model/model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1]) if harm == "changed" else model.unlink()
    states, _ = go(tmp_path / "run", attempt=4)
    assert states["report"] == "Succeeded"
    assert model.read_bytes() == content


def test_the_data_is_looked_at_first_and_what_was_found_is_kept(finished: Path) -> None:
    assert STAGES[0].name == "analyze"
    found = json.loads((finished / "analysis.json").read_text())
    assert [item["name"] for item in found["classes"]] == list("0123456789")
    assert found["leakage"]["compared"]["test"] == 359
    assert found["warnings"] == []


def folder_job(folder: Path, **dataset: object) -> ScalingJobSpec:
    section = {"name": "image-folder", "uri": str(folder), "imageSize": 8, "loader": {"workers": 1}, **dataset}
    return ScalingJobSpec.model_validate({**a_spec(epochs=1, batchSize=8).to_json_dict(), "dataset": section})


def test_each_run_says_what_data_it_found_also_when_it_looked_before(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    storage = Storage(str(tmp_path / "run"))
    for attempt, spec in ((2, a_spec()), (3, a_spec(epochs=1))):
        model = ProgressModel("job", attempt, [stage.name for stage in STAGES])
        ledger = Ledger(storage, attempt=attempt)
        watch = replace(WATCH, note=model.note)
        ledger.claim({})
        run_stages(
            STAGES[:1], Run("job", spec, storage, attempt, None, OneProcess(), watch, ledger.publish), ledger, model
        )
        stage = model.snapshot().stages[0]
        assert stage.state == "Reused"
        assert stage.notes[0].startswith("dataset digits: 10 classes (0, 1, 2, 3, 4, ...); samples: 1,259 training, ")


def test_a_file_that_cannot_be_read_ends_the_job_before_training(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"iris": 20, "rose": 20})
    (tmp_path / "data/iris/005.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 32 samples looked at cannot be read, such as iris/005.png .*skip"):
        go(tmp_path / "run", spec=folder_job(tmp_path / "data"))
    assert json.loads((tmp_path / "run/analysis.json").read_text())["unreadable"]["count"] == 1


def test_a_folder_of_images_goes_through_all_stages_with_unreadable_files_skipped(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"iris": 20, "rose": 20})
    (tmp_path / "data/iris/005.png").write_bytes(b"no picture")
    augmentation = {"horizontalFlip": 0.5, "crop": {"area": 0.5}, "mixup": 0.2}
    spec = folder_job(tmp_path / "data", unreadable="skip", sampling="balanced", augmentation=augmentation)
    states, _ = go(tmp_path / "run", spec=spec)
    assert set(states.values()) == {"Succeeded"}
    architecture = load_model(str(tmp_path / "run/model")).architecture
    assert (architecture["classes"], architecture["inputShape"]) == (["iris", "rose"], [3, 8, 8])


def test_the_driver_opens_the_data_once(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").symlink_to(finished / "checkpoints")
    opened: list[str | None] = []

    def counted(spec: DatasetSpec) -> Dataset:
        opened.append(spec.name)
        return open_dataset(spec)

    monkeypatch.setattr("scaling_training.data.open_dataset", counted)
    states, engine = go(tmp_path, attempt=2, previous=None)
    assert set(states.values()) == {"Succeeded"}
    assert len(engine.jobs) == 1
    # The training process, which is this one here, has opened its own by another name.
    assert opened == ["digits"]
