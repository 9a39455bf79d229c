"""The update that a run makes is the one that its fields promise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.optim import loss_scale
from scaling_training.optim.loss_scale import LossScale
from scaling_training.train import World
from tests.unit.scaling_training.train.looped import (
    ALONE,
    SAMPLES,
    STEPS_PER_EPOCH,
    Run,
    a_run,
    assert_bit_for_bit,
    assert_same,
    on,
    run,
    run_alone,
)
from tests.unit.scaling_training.worlds import in_world

RATE = 0.5
FULL_BATCH = a_run("linear", epochs=3, optimizer={"name": "gradient-descent", "learningRate": RATE})
FP16 = a_run("small-cnn", bits=32, precision="fp16", clipNorm=5.0, ema={"decay": 0.8})
BF16 = a_run("small-cnn", bits=32, precision="bf16", epochs=8, parallelism={"batchNorm": "sync"})


def _deterministic(world: World, root: str) -> list[Run | None]:
    # Another process's kernels are chosen, not this one's.
    spec = a_run("small-cnn", bits=32, mixup=0.4, deterministic=True, optimizer={"name": "adam"})
    choose = torch.use_deterministic_algorithms
    with patch.object(torch, "use_deterministic_algorithms", wraps=choose) as chosen:
        found = [run(world, spec, f"{root}/deterministic-{number}") for number in range(2)]
    assert [call.args[0] for call in chosen.call_args_list] == [True, False, True, False], "and put back"
    return found


def in_two(world: World, root: str) -> dict[str, Any]:
    """What two processes make of the runs."""
    found: dict[str, Any] = {"deterministic": _deterministic(world, root)}
    found["full batch"] = run(world, FULL_BATCH, f"{root}/full-batch")
    found["bf16"] = [run(world, on(BF16, mesh), f"{root}/bf16-{mesh}") for mesh in ({"data": 2}, {"fsdp": 2})]
    found["fp16"] = [overflowing(world, on(FP16, mesh), f"{root}/fp16-{mesh}") for mesh in ({"data": 2}, {"fsdp": 2})]
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    found: Mapping[str, Any] = in_world(2, in_two, str(tmp_path_factory.mktemp("two")))[0]
    return found


def test_gradient_descent_through_micro_batches_is_the_formula(tmp_path: Path, two: Mapping[str, Any]) -> None:
    """w - rate * mean over all samples of (softmax(w x) - y) x, written out with numpy."""
    started = run_alone(FULL_BATCH.model_copy(update={"training": _tiny_rate(FULL_BATCH)}), f"{tmp_path}/start").weights
    weight, bias = started["1.weight"], started["1.bias"]
    dataset = open_dataset(FULL_BATCH.dataset)
    feed = dataset.feed(dataset.train, device=ALONE.device, seed=FULL_BATCH.training.seed, training=True)
    for epoch in range(FULL_BATCH.training.epochs):
        batch = feed.get(epoch, np.arange(SAMPLES))
        inputs, labels = batch.inputs.double().flatten(1).numpy(), np.eye(4)[batch.targets.numpy()]
        scores = np.exp(inputs @ weight.T + bias)
        error = scores / scores.sum(axis=1, keepdims=True) - labels
        weight = weight - RATE * error.T @ inputs / SAMPLES
        bias = bias - RATE * error.mean(axis=0)
    for found in (run_alone(FULL_BATCH, f"{tmp_path}/run"), two["full batch"]):
        assert found.outcome.step == FULL_BATCH.training.epochs
        # The start is known to 1e-9, for it has taken three tiny steps.
        np.testing.assert_allclose(found.weights["1.weight"], weight, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(found.weights["1.bias"], bias, rtol=1e-7, atol=1e-8)


def _tiny_rate(spec: ScalingJobSpec) -> Any:
    optimizer = spec.training.optimizer.model_copy(update={"learning_rate": 1e-10})
    return spec.training.model_copy(update={"optimizer": optimizer})


def test_accumulation_changes_no_update(tmp_path: Path) -> None:
    runs = [
        run_alone(a_run("transformer", mixup=0.4, accumulation=pieces, clipNorm=1.0), f"{tmp_path}/{pieces}")
        for pieces in (1, 2, 4)
    ]
    for found in runs[1:]:
        assert_same(found, runs[0], 1e-9)


# --- Half precision ---------------------------------------------------------------------------------------------------

TOO_LARGE = 2.0**20  # for the first steps of this model
Overflows = tuple[list[tuple[bool, float]], Run | None, Run | None, dict[str, Any]]


def overflowing(world: World, spec: ScalingJobSpec, root: str) -> Overflows:
    """A run whose first steps overflow, and the same stopped in step 4 and resumed.

    First of all whether each step was taken, and the factor after it; last what the checkpoint of step 4 says.
    """
    verdicts: list[tuple[bool, float]] = []
    accept = LossScale.accept

    def noting(scale: LossScale, norm: float) -> bool:
        taken = accept(scale, norm)
        verdicts.append((taken, scale.factor))
        return taken

    with patch.object(LossScale, "accept", noting), patch.object(loss_scale, "_START", TOO_LARGE):
        straight = run(world, spec, f"{root}-straight")
        noted = list(verdicts)
        stopped = run(world, spec, root, stop_at=4)
        resumed = run(world, spec, root, attempt=2)
    said = {}
    if stopped is not None:
        said = json.loads(Path(root, stopped.outcome.checkpoint.folder, "position.json").read_text())["position"]
    return noted, straight, resumed, said


def test_an_overflow_in_16_bits_skips_the_step_and_halves_a_scale_that_a_checkpoint_keeps(
    tmp_path: Path, two: Mapping[str, Any]
) -> None:
    for verdicts, straight, resumed, said in (overflowing(ALONE, FP16, f"{tmp_path}/alone"), *two["fp16"]):
        taken = [fits for fits, _ in verdicts]
        assert len(taken) == 2 * STEPS_PER_EPOCH
        assert not taken[0]
        assert True in taken[:4]
        halvings = [taken[: number + 1].count(False) for number in range(len(taken))]
        assert [factor for _, factor in verdicts] == [TOO_LARGE * 0.5**count for count in halvings]
        assert said["loss_scale"] == {
            "factor": verdicts[3][1],
            "fitted": taken[3::-1].index(False),
            "skipped": halvings[3],
        }
        assert_bit_for_bit(resumed, straight)


def test_a_skipped_step_leaves_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "_START", 2.0**60)
    first = run_alone(FP16, f"{tmp_path}/one", stop_at=1)
    third = run_alone(FP16, f"{tmp_path}/three", stop_at=3)
    trained = [name for name in first.weights if "running" not in name and "tracked" not in name]
    assert trained
    for name in trained:
        np.testing.assert_array_equal(first.weights[name], third.weights[name])


def test_a_skipped_step_is_none_for_the_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step that is taken they are the weights themselves, before and after a resume."""
    monkeypatch.setattr(loss_scale, "_START", TOO_LARGE)
    straight = overflowing(ALONE, FP16, f"{tmp_path}/all")[0]
    first = [taken for taken, _ in straight].index(True) + 1
    assert first > 2
    found = run_alone(FP16, f"{tmp_path}/straight", stop_at=first)
    run_alone(FP16, f"{tmp_path}/resumed", stop_at=first - 1)
    for run_ in (found, run_alone(FP16, f"{tmp_path}/resumed", attempt=2, stop_at=1)):
        weights, averages = (load(run_.files[f"{kind}.safetensors"]) for kind in ("model", "ema"))
        for name, average in averages.items():
            np.testing.assert_array_equal(average, weights[name], err_msg=name)


def test_bf16_trains_with_weights_of_32_bits(tmp_path: Path, two: Mapping[str, Any]) -> None:
    for found in (run_alone(BF16, str(tmp_path)), *two["bf16"]):
        losses = [float(row["trainLoss"]) for row in found.rows]
        assert losses[-1] < 0.6 * losses[0]
        assert {str(value.dtype) for name, value in found.weights.items() if "tracked" not in name} == {"float32"}


def test_two_runs_in_deterministic_mode_are_equal_bit_for_bit(two: Mapping[str, Any]) -> None:
    first, second = two["deterministic"]
    assert_bit_for_bit(first, second)


# --- The end ----------------------------------------------------------------------------------------------------------


def test_early_stopping_ends_with_a_checkpoint_and_a_resume_trains_no_further(tmp_path: Path) -> None:
    # At this rate nothing gets better; checkpoints would come every 50 epochs.
    spec = a_run(
        "linear",
        epochs=50,
        optimizer={"name": "sgd", "learningRate": 1e-12},
        earlyStopping={"metric": "loss", "mode": "min", "patience": 2, "minDelta": 0.01},
        checkpoint={"everyEpochs": 50},
    )
    ended = run_alone(spec, str(tmp_path))
    assert (ended.outcome.stopped, ended.outcome.epoch, ended.outcome.step) == (False, 3, 3 * STEPS_PER_EPOCH)
    assert ended.outcome.checkpoint.step == ended.outcome.step
    again = run_alone(spec, str(tmp_path), attempt=2)
    assert again.outcome.first_step_at is None
    assert (again.outcome.step, again.outcome.stopped) == (ended.outcome.step, False)
    assert again.outcome.checkpoint == ended.outcome.checkpoint
    assert_bit_for_bit(again, ended)
