"""A model in stages gives what it gives in one process, and its checkpoints fit either."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_api.spec import FreezeSpec, ModelSpec, ScalingJobSpec
from scaling_training.checkpoint import Checkpoints
from scaling_training.checkpoint.state import Position, Trained
from scaling_training.errors import UserError
from scaling_training.evaluate.tally import evaluation_mode
from scaling_training.models.freeze import apply_freeze
from scaling_training.parallel import Mesh, MeshShape
from scaling_training.parallel.parallelize import check_model, parallelize
from scaling_training.parallel.pipeline import micro_batches
from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.history import Row, parse_rows
from scaling_training.train.loop import train
from scaling_training.train.saving import Keeper
from scaling_training.train.setup import set_up
from scaling_training.train.start import Start
from scaling_training.train.step import requests_from, train_step
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import a_batch, a_task, dropout
from tests.unit.scaling_training.parallel.stepping import Case, Result, train_all
from tests.unit.scaling_training.parallel.test_parity import ALONE, alone, assert_equal
from tests.unit.scaling_training.worlds import in_world


@pytest.mark.parametrize(
    ("samples", "most", "count", "size"),
    [
        pytest.param(16, 8, 8, 2, id="it divides"),
        pytest.param(17, 8, 6, 3, id="the last one is filled up"),
        pytest.param(3, 8, 3, 1, id="fewer samples than micro-batches"),
        pytest.param(1, 8, 1, 1, id="one sample"),
    ],
)
def test_micro_batches_have_one_size_and_each_sample_once(samples: int, most: int, count: int, size: int) -> None:
    parts = micro_batches(a_batch("transformer", samples, 0), most)
    assert [len(part.filled) for part in parts] == [size] * count
    assert [key for part in parts for key in part.real.keys.tolist()] == list(range(samples))
    assert all(len(part.real) for part in parts)


# Blocks that do not divide by the stages; samples that divide neither by the batch ranks nor into micro-batches;
# fewer samples than micro-batches, and a batch rank without any; clipping that takes effect.
TWO = (
    Case("transformer", {"pipeline": 2}, samples=16, max_norm=0.5),
    Case("deep-transformer", {"pipeline": 2}, samples=17, max_norm=0.5, micro_batches=2, steps=8),
    Case("transformer", {"pipeline": 2}, samples=1, steps=3),
    Case("transformer", {"pipeline": 2}, samples=11, steps=3, dtype=torch.float32),
)
THREE = (Case("deep-transformer", {"pipeline": 3}, samples=13, max_norm=0.5, steps=5),)
FOUR = (
    Case("deep-transformer", {"data": 2, "pipeline": 2}, samples=19, max_norm=0.5, steps=10),
    Case("transformer", {"data": 2, "pipeline": 2}, samples=1, micro_batches=2, steps=3),
)


@pytest.mark.parametrize(("size", "cases"), [(2, TWO), (3, THREE), (4, FOUR)], ids=["two", "three", "four"])
def test_stages_train_as_one_process(size: int, cases: Sequence[Case]) -> None:
    results = in_world(size, train_all, cases)
    for number, case in enumerate(cases):
        of_ranks = [by_rank[number] for by_rank in results]
        assert all(result.losses == of_ranks[0].losses for result in of_ranks)
        assert of_ranks[0].state.keys().isdisjoint(of_ranks[-1].state)
        assert_equal(_together(of_ranks), alone(case), case.dtype)


def _together(of_ranks: Sequence[Result]) -> Result:
    """The stages' parameters as one model's; replicas of a stage must agree to the bit."""
    for result in of_ranks:
        for other in of_ranks:
            for name in result.state.keys() & other.state.keys():
                assert torch.equal(result.state[name], other.state[name]), name
    gradients, state = (
        {**ChainMap(*parts)} for parts in ([r.gradients for r in of_ranks], [r.state for r in of_ranks])
    )
    return Result(of_ranks[0].losses, gradients, state)


def _frozen_then_not(world: World, parallelism: Mapping[str, Any], recompute: bool) -> list[dict[str, torch.Tensor]]:
    """Gradients while the first blocks are frozen, and after; then the output for another batch in evaluation."""
    spec = a_spec(parallelism=dict(parallelism), activationCheckpointing=recompute)
    task = a_task("deep-transformer")
    mesh = Mesh.of(spec.training.parallelism, world)
    replica = parallelize(task, mesh, spec=spec, around=partial(dropout, task.model))
    frozen = ("patches", "positions", "blocks.0", "blocks.1")
    stages = [FreezeSpec(layers=layers, until_epoch=1) for layers in frozen]
    seen = []
    for epoch in range(2):
        apply_freeze(task, stages, epoch)
        replica.model.zero_grad()
        replica.forward_backward(a_batch("deep-transformer", 9, epoch), scale=1 / 9)
        seen.append({n: p.grad.clone() for n, p in replica.model.named_parameters() if p.grad is not None})
    with torch.no_grad(), evaluation_mode(replica.model):
        output = replica.forward(a_batch("deep-transformer", 7, 5))
    seen.append({} if output is None else {"output": output})
    return seen


@pytest.mark.parametrize("recompute", [False, True], ids=["activations kept", "activations computed again"])
def test_layers_thaw_and_outputs_come_from_the_last_stage(recompute: bool) -> None:
    expected = _frozen_then_not(ALONE, {}, False)
    first, last = in_world(2, _frozen_then_not, {"pipeline": 2}, recompute)
    assert first[2] == {}
    assert not first[0], "the first stage is frozen as a whole"
    for one, other, whole in zip(first, last, expected, strict=True):
        found = one | other
        assert found.keys() == whole.keys()
        largest = max(value.abs().max().item() for value in whole.values())
        for name, value in whole.items():
            assert (found[name] - value).abs().max().item() <= 1e-10 * largest, name


@pytest.mark.parametrize(
    ("model", "stages", "fragment"),
    [
        pytest.param("small-cnn", 2, "pipeline 2: model it is no chain of like blocks", id="a chain of convolutions"),
        pytest.param("mobilenet", 2, "take model vit-tiny", id="batch norm"),
        pytest.param("transformer", 3, "pipeline 3 is more than the 2 blocks of model it", id="too few blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_starts(model: str, stages: int, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        check_model(a_task(model).model, Mesh(MeshShape(pipeline=stages), 0), name="it")


def test_statistics_of_whole_batches_are_not_cut() -> None:
    """Micro-batches of a pipeline are filled up, which batch norm would count."""
    model = a_task("transformer").model
    model.get_submodule("blocks.1").register_module("norm", nn.BatchNorm1d(64))
    with pytest.raises(UserError, match="no chain of like blocks"):
        check_model(model, Mesh(MeshShape(pipeline=2), 0), name="it")


def _out_of_memory(world: World) -> None:
    task = a_task("transformer")
    spec = a_spec(parallelism={"pipeline": 2})
    replica = parallelize(task, Mesh.of(spec.training.parallelism, world), spec=spec)
    if world.is_first:
        task.model.get_submodule("blocks.0.mlp.up").register_forward_pre_hook(_fail)
    replica.forward_backward(a_batch("transformer", 4, 0), scale=1.0)


def _fail(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    # When the schedule runs, not when it finds out about shapes.
    calls = getattr(module, "calls", 0)
    module.calls = calls + 1  # type: ignore[assignment]
    if calls:
        raise torch.OutOfMemoryError("there is none left")


def test_an_error_within_a_stage_is_raised_as_it_is() -> None:
    with pytest.raises(AssertionError) as raised:
        in_world(2, _out_of_memory)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


# --- A whole run -----------------------------------------------------------------------------------------------------

TRAINING: Mapping[str, Any] = {
    "epochs": 2,
    "batchSize": 300,  # the last batch of an epoch has 59
    "clipNorm": 0.02,  # below the norm of each stage, and this optimizer takes gradients as long as they are
    "ema": {"decay": 0.9},
    "optimizer": {"name": "sgd", "learningRate": 3.0, "momentum": 0.9},
}


STAGES: Mapping[str, Any] = {"pipeline": 2}
ONE: Mapping[str, Any] = {}


def a_vision_job(parallelism: Mapping[str, Any]) -> ScalingJobSpec:
    """A small vision transformer with everything that a checkpoint holds."""
    spec = a_spec(parallelism=dict(parallelism), **TRAINING)
    return spec.model_copy(update={"model": ModelSpec(name="vit-tiny", width=0.25)})


def run(
    world: World, root: str, attempt: int, parallelism: Mapping[str, Any], stop_at: int | None = None
) -> TrainOutcome:
    """train() to its end, or until so many steps have begun."""
    asked = iter(range(1, 1000))
    return train(
        a_vision_job(parallelism),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: next(asked) == stop_at,
        key="key",
        resume=None,
    )


def size_of(parallelism: Mapping[str, Any]) -> int:
    return int(parallelism.get("pipeline", 1))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOutcome, list[Row]]:
    """The run of one process."""
    root = str(tmp_path_factory.mktemp("straight"))
    [outcome] = in_world(1, run, root, 1, ONE)
    return outcome, rows_of(root, outcome)


def rows_of(root: str, outcome: TrainOutcome) -> list[Row]:
    rows = parse_rows(Storage(root).read(outcome.history))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("first", "then"),
    [(STAGES, None), (STAGES, ONE)],
    ids=["to the end", "gone on with by one"],
)
def test_a_run_in_stages_ends_with_the_curves_of_one_process(
    tmp_path: Path,
    straight: tuple[TrainOutcome, list[Row]],
    first: Mapping[str, Any],
    then: Mapping[str, Any] | None,
) -> None:
    root = str(tmp_path)
    outcomes = in_world(size_of(first), run, root, 1, first, None if then is None else 7)
    if then is not None:
        assert [(outcome.stopped, outcome.step) for outcome in outcomes] == [(True, 7)] * size_of(first)
        outcomes = in_world(size_of(then), run, root, 2, then)
    assert outcomes == [outcomes[0]] * len(outcomes)
    expected, rows = straight
    assert (outcomes[0].stopped, outcomes[0].step) == (False, expected.step)
    assert outcomes[0].metrics == pytest.approx(expected.metrics, rel=1e-4)
    for found, row in zip(rows_of(root, outcomes[0]), rows, strict=True):
        assert found == pytest.approx(row, rel=1e-4)


Held = Mapping[str, "np.ndarray[Any, Any]"]


def _kept(world: World, root: str, parallelism: Mapping[str, Any], steps: int) -> Held:
    """What this process holds after so many steps, which it saves; with 0 steps, what it reads."""
    setup = set_up(a_vision_job(parallelism), world)
    trained = Trained(setup.task.model, setup.optimizer, setup.ema, is_part=world.size > 1)
    checkpoints = Checkpoints(Storage(root), attempt=1, key="key", keep=1)
    keeper = Keeper(trained, world=world, checkpoints=checkpoints, objective=setup.objective)
    if steps:
        feed = setup.training.stream(requests_from(setup, 0))
        for step in range(steps):
            train_step(setup, feed, setup.order.batch_at(300 * step), step=step, rate=1e-2, stop=False)
        keeper.save(Position(step=steps), epoch=0, metrics=None)
        keeper.wait()
    else:
        assert keeper.restore(Start(checkpoints, world=world, resume=None)).step
    return {name: tensor.numpy().copy() for name, tensor in trained.tensors().items()}


@pytest.mark.parametrize(("saved", "loaded"), [(STAGES, ONE), (ONE, STAGES)])
def test_checkpoints_are_those_of_the_whole_model_bit_for_bit(
    tmp_path: Path, saved: Mapping[str, Any], loaded: Mapping[str, Any]
) -> None:
    held = ChainMap(*in_world(size_of(saved), _kept, str(tmp_path), saved, 2))
    of_ranks = in_world(size_of(loaded), _kept, str(tmp_path), loaded, 0)
    read = ChainMap(*of_ranks)
    assert len(of_ranks) == 1 or of_ranks[0].keys().isdisjoint(of_ranks[1])
    assert {name.partition("/")[0] for name in read} == {"model", "optimizer", "ema"}
    assert read.keys() == held.keys()
    for name, value in held.items():
        np.testing.assert_array_equal(read[name], value, err_msg=name)
