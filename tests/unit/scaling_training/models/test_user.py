from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.describe import describe
from scaling_training.models.dropout import KeyedDropout
from scaling_training.models.task import ClassificationTask, Task
from scaling_training.models.user import check_task
from tests.unit.scaling_training.builders import a_batch
from tests.unit.scaling_training.models.test_own_task import OwnTally, OwnTask

_MODULE = "a_users_models"


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType(_MODULE)
    sys.modules[_MODULE] = made
    yield made
    del sys.modules[_MODULE]


def built(arguments: dict[str, Any] | None = None, *, classes: int = 3, **facts: Any) -> Task:
    spec = ModelSpec.model_validate({"factory": f"{_MODULE}:build", "arguments": arguments})
    return build_task(spec, input_shape=(5,), classes=classes, class_names=("a", "b", "c"), seed=0, **facts)


def test_a_factory_gets_its_arguments_and_the_facts_that_it_asks_for(module: ModuleType) -> None:
    seen: dict[str, Any] = {}

    def build(*, hidden: int, input_shape: tuple[int, ...], classes: int, class_names: tuple[str, ...]) -> Task:
        seen.update(hidden=hidden, input_shape=input_shape, classes=classes, class_names=class_names)
        layers = (nn.Linear(input_shape[0], hidden), nn.Dropout(0.5), nn.Linear(hidden, classes))
        return ClassificationTask(nn.Sequential(*layers), classes)

    module.build = build  # type: ignore[attr-defined]
    task = built({"hidden": 8})

    assert seen == {"hidden": 8, "input_shape": (5,), "classes": 3, "class_names": ("a", "b", "c")}
    assert isinstance(task.model.get_submodule("1"), KeyedDropout)
    again = built({"hidden": 8}).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in task.model.state_dict().items())


def test_a_task_may_be_of_any_kind(module: ModuleType) -> None:
    module.build = OwnTask  # type: ignore[attr-defined]
    task = built()
    assert isinstance(task, OwnTask)
    assert check_task(task, a_batch(torch.ones(4, 5), torch.zeros(4)), classes=3) == frozenset({"loss", "bias"})


def _raises() -> Task:
    raise KeyError("embedding")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: None, r"a_users_models:build returned nothing, and what is needed is a task: an object with model"),
        (lambda: {"model": 1}, "returned an object of type dict, and what is needed"),
        (lambda: nn.Linear(1, 1), r"returned a model \(Linear\), not a task: .* return ClassificationTask\(model"),
        (_raises, "a_users_models:build raised KeyError: 'embedding'"),
        (lambda depth: None, "a_users_models:build raised TypeError"),
    ],
    ids=["nothing", "a dictionary", "a bare model", "an error", "an argument is missing"],
)
def test_a_factory_that_returns_no_task_is_refused(module: ModuleType, build: Any, sentence: str) -> None:
    module.build = build  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=sentence):
        built()


class _AnyTask:
    """A task of the user's own, whose model can be set."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Any) -> torch.Tensor:
        return output.sum()

    def tally(self, device: torch.device) -> Any:
        return OwnTally(device)


def _compiled(model: nn.Module) -> nn.Module:
    found: Any = torch.compile(model)
    wrapped: nn.Module = found
    return wrapped


class _Fixed(_AnyTask):
    model = property(lambda self: torch.compile(nn.Linear(5, 3)))

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("kind", [lambda model: ClassificationTask(model, 3), _AnyTask], ids=["ours", "the user's"])
@pytest.mark.parametrize(
    "wrapped",
    [_compiled, nn.DataParallel, lambda model: nn.DataParallel(_compiled(model))],
    ids=["compiled", "data-parallel", "both"],
)
def test_what_torch_wraps_a_model_in_is_taken_off(
    module: ModuleType, caplog: pytest.LogCaptureFixture, wrapped: Any, kind: Any
) -> None:
    """The names of its weights are those of the model itself, wherever it is built, loaded or handed over."""
    plain = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    module.build = lambda: kind(wrapped(plain))  # type: ignore[attr-defined]
    task = built()
    assert list(task.model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert "its model is taken without" in caplog.text
    check_task(task, _BATCH, classes=3)


def test_a_compiled_layer_is_taken_as_it_was(module: ModuleType) -> None:
    module.build = lambda: ClassificationTask(  # type: ignore[attr-defined]
        nn.Sequential(nn.Linear(5, 4), nn.Sequential(_compiled(nn.Linear(4, 3)))), 3
    )
    assert list(built().model.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_a_wrapping_that_cannot_be_taken_off_is_refused(module: ModuleType) -> None:
    module.build = _Fixed  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="returned a OptimizedModule; return the model itself"):
        built()


def test_half_a_task_is_refused_with_what_it_lacks(module: ModuleType) -> None:
    class Half:
        model = nn.Linear(1, 1)

        def inputs(self, batch: Any) -> tuple[Any, ...]:
            return ()

    module.build = Half  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="of type Half without loss_sum and tally, and what is needed"):
        built()


def test_a_setting_of_the_loss_that_would_be_lost_is_refused(module: ModuleType) -> None:
    module.build = lambda classes: ClassificationTask(nn.Linear(5, classes), classes)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"training.labelSmoothing: .* has no parameter label_smoothing; add it"):
        built(label_smoothing=0.1)
    with pytest.raises(UserError, match="has no parameter class_weights"):
        built(class_weights=torch.ones(3))


def test_a_function_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.factory nowhere_at_all:build: there is no module nowhere_at_all"):
        build_task(ModelSpec(factory="nowhere_at_all:build"), input_shape=(1,), classes=2, seed=0)


_BATCH = a_batch(torch.zeros(2, 5), torch.tensor([0, 2]))


def test_a_task_for_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match="ClassificationTask was made for 5 classes, and the data set has 3; let the"):
        check_task(ClassificationTask(nn.Linear(5, 3), 5), _BATCH, classes=3)


def test_outputs_must_match_the_classes() -> None:
    with pytest.raises(UserError, match=r"output for 2 samples has the shape \(2, 4\); the data set has 3 classes"):
        check_task(ClassificationTask(nn.Linear(5, 4), 3), _BATCH, classes=3)
    check_task(ClassificationTask(nn.Linear(5, 3), 3), _BATCH, classes=3)


def test_a_model_that_cannot_take_the_samples_is_refused_with_their_shape() -> None:
    with pytest.raises(
        UserError, match=r"samples of the data set \(shape \(5,\), torch.float32\): it raised RuntimeError: .*mat1"
    ):
        check_task(ClassificationTask(nn.Linear(6, 3), 3), _BATCH, classes=3)


def test_a_check_leaves_mode_and_statistics_as_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))
    check_task(ClassificationTask(model, 3), a_batch(torch.ones(2, 5), torch.tensor([0, 1])), classes=3)
    assert model.training
    assert model.get_buffer("0.running_mean").tolist() == [0] * 5


class Detached(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values).detach()


class FailsInTraining(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise AssertionError("no such branch")
        return super().forward(values)


class EndsTheProcess(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        sys.exit("no GPU here")


class TwoOutputsInTraining(nn.Linear):
    def forward(self, values: torch.Tensor) -> Any:
        scores = super().forward(values)
        return (scores, scores) if self.training else scores


class NoNumbers(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values).abs().neg().log()


class Frozen(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.requires_grad_(False)


class Chosen(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(super().forward(values).argmax(dim=1), 3)


class OverwritesWhatTheGradientNeeds(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values).exp().add_(1.0)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        pytest.param(Detached, "the loss depends on no weight of the model, so nothing can be trained", id="detached"),
        pytest.param(
            FailsInTraining,
            "cannot compute its loss on .*: it raised AssertionError: no such branch, at .*test_user.py:",
            id="training mode",
        ),
        pytest.param(EndsTheProcess, r"it called sys.exit\('no GPU here'\), at .*test_user.py:", id="an exit"),
        pytest.param(
            TwoOutputsInTraining,
            r"in training the output is an object of type tuple, and .* the scores alone, a tensor \(2, 3\)",
            id="a tuple in training only",
        ),
        pytest.param(NoNumbers, "the loss of the first samples is nan before anything is trained", id="a logarithm"),
        pytest.param(Frozen, "no weight of the model can be trained: it has none, or requires_grad is", id="frozen"),
        pytest.param(Chosen, "in evaluation the output is of torch.int64; it must be floating", id="no scores"),
        pytest.param(
            OverwritesWhatTheGradientNeeds,
            "cannot be taken back through the model: it raised RuntimeError: one of",
            id="backward",
        ),
    ],
)
def test_a_model_that_fails_in_its_first_step_is_refused_before_it(layer: type[nn.Linear], sentence: str) -> None:
    with pytest.raises(UserError, match=f"model.factory: .*{sentence}"):
        check_task(ClassificationTask(layer(5, 3), 3), _BATCH, classes=3, field="model.factory")


def test_a_check_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model
            self.training = False

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.layers(values + torch.rand(5))
            return scores

    noisy = Noisy()
    check_task(ClassificationTask(noisy, 3), _BATCH, classes=3)

    assert [module.training for module in noisy.modules()] == [False, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in noisy.parameters())
    assert torch.equal(torch.rand(3), expected)


def test_a_description_counts_parameters_and_operations() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 3))
    model[0].requires_grad_(False)
    found = describe(ClassificationTask(model, 3), (torch.zeros(2, 1, 8, 8),))
    assert found.parameters == 4 * 9 + 4 + 256 * 3 + 3
    assert found.trainable == 256 * 3 + 3
    assert found.flops == 2 * (64 * 4 * 9) + 2 * 256 * 3


def test_attention_is_counted_as_well() -> None:
    task = build_task(ModelSpec(name="vit-tiny", width=0.25), input_shape=(1, 8, 8), classes=3, seed=0)
    tokens, size, blocks = 16, 32, 6
    dense = tokens * size * size * (4 + 8) + 2 * tokens * tokens * size
    expected = 2 * (blocks * dense + tokens * size * 4 + size * 3)
    assert describe(task, (torch.zeros(3, 1, 8, 8),)).flops == expected


def test_the_example_of_text_is_a_task(tmp_path: Path) -> None:
    """Built from its file as `code` would bring it, on samples of its own data set."""
    from scaling_api.code import CodeSpec
    from scaling_training.code import install

    root = Path(__file__).parents[4] / "examples" / "text"
    install(CodeSpec(uri=str(root / "languages.py")))
    import languages  # type: ignore[import-not-found]

    inputs, labels = languages.data(samples=40, length=48)["train"]
    spec = ModelSpec.model_validate({"factory": "languages:model", "arguments": {"width": 16}})
    task = build_task(spec, input_shape=inputs.shape[1:], classes=len(languages.CLASSES), seed=0)
    batch = a_batch(torch.from_numpy(inputs[:6]), torch.from_numpy(labels[:6]))
    check_task(task, batch, classes=len(languages.CLASSES))
