from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.dropout import KeyedDropout, keep_mask, keyed, replace_dropout


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed))


def a_model(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers)
    replace_dropout(model)
    return model


def test_the_mask_is_splitmix64_at_the_key() -> None:
    def reference(key: int, place: int) -> int:
        z = (key + place) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    drawn, p = keys(3), 0.3
    expected = [
        [(reference(key, 5 * 2**32 + place) >> 1) >= int(p * 2**63) for place in range(1, 8)] for key in drawn.tolist()
    ]
    assert keep_mask(drawn, layer=5, count=7, p=p).tolist() == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_stays_is_as_asked_overall_and_for_each_sample_and_position(p: float) -> None:
    samples, count = 400, 500
    kept = keep_mask(keys(samples), layer=0, count=count, p=p).double()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(kept.mean().item() - (1 - p)) < 4 * deviation / (samples * count) ** 0.5
    for dim, n in ((0, samples), (1, count)):
        assert (kept.mean(dim=dim) - (1 - p)).abs().max() < 5 * deviation / n**0.5


def test_samples_positions_and_layers_are_drawn_independently() -> None:
    drawn = keys(2000)
    one, other = (keep_mask(drawn, layer=layer, count=200, p=0.5).double() - 0.5 for layer in (0, 1))
    bound = 5 * 0.25 / (2000 * 200) ** 0.5
    assert (one * other).mean().abs() < bound
    assert (one[:, 1:] * one[:, :-1]).mean().abs() < bound
    assert (one[1:] * one[:-1]).mean().abs() < bound


def test_a_sample_keeps_its_mask_in_any_batch() -> None:
    model, drawn, x = a_model(nn.Dropout(0.5), nn.Dropout(0.2)), keys(8), torch.ones(8, 3, 5)
    with keyed(model, drawn):
        whole = model(x)
    picked = torch.tensor([6, 1, 3])
    with keyed(model, drawn[picked]):
        torch.testing.assert_close(model(x[picked]), whole[picked], rtol=0, atol=0)
    with keyed(model, keys(8, seed=1)):
        assert not torch.equal(model(x), whole)


def test_what_stays_and_its_gradient_are_scaled_by_the_inverse() -> None:
    model, x = a_model(nn.Dropout(0.2)), torch.ones(50, 40, requires_grad=True)
    with keyed(model, keys(50)):
        out = model(x)
    out.sum().backward()
    assert x.grad is not None
    assert set(out.detach().unique().tolist()) == {0.0, 1.25}
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize(
    ("layer", "varies"),
    [(nn.Dropout(0.5), (2, 3)), (nn.Dropout2d(0.5), ())],
    ids=["elements", "whole channels"],
)
def test_masks_vary_over(layer: nn.Module, varies: tuple[int, ...]) -> None:
    model = a_model(layer)
    with keyed(model, keys(30)):
        out = model(torch.ones(30, 6, 4, 4))
    assert out.flatten(2).std(dim=2).any().item() is bool(varies)
    assert out.std(dim=1).any()


def test_stochastic_depth_drops_whole_samples() -> None:
    from torchvision.ops import StochasticDepth

    model = a_model(StochasticDepth(0.5, "row"))
    with keyed(model, keys(40)):
        out = model(torch.ones(40, 3, 2, 2)).flatten(1)
    assert {tuple(row) for row in out.unique(dim=1).tolist()} == {(0.0,), (2.0,)}


def test_evaluation_needs_no_keys_and_training_does() -> None:
    model, x = a_model(nn.Dropout(0.5)), torch.ones(4, 2)
    assert model.eval()(x) is x
    model.train()
    with pytest.raises(RuntimeError, match="dropout of 4 samples has no keys"):
        model(x)
    with keyed(model, keys(3)), pytest.raises(RuntimeError, match="the keys of 3 samples"):
        model(x)


def test_the_probability_may_be_overridden() -> None:
    spec = ModelSpec(name="vit-tiny", width=0.25, dropout=0.25)
    model = build_task(spec, input_shape=(1, 8, 8), classes=3, seed=0).model
    assert {module.p for module in model.modules() if isinstance(module, KeyedDropout)} == {0.25}
    with pytest.raises(UserError, match=r"model.dropout 0.25: small-cnn has no dropout layer"):
        build_task(ModelSpec(name="small-cnn", dropout=0.25), input_shape=(1, 8, 8), classes=3, seed=0)


@pytest.mark.parametrize(
    "layer",
    [nn.MultiheadAttention(4, 2, dropout=0.1), nn.LSTM(4, 4, num_layers=2, dropout=0.1), nn.AlphaDropout(0.1)],
    ids=lambda layer: type(layer).__name__,
)
def test_dropout_that_no_key_reaches_is_refused(layer: nn.Module) -> None:
    with pytest.raises(UserError, match=rf"\({type(layer).__name__}\) draws its dropout inside torch"):
        replace_dropout(nn.Sequential(layer))


@pytest.fixture
def _dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_dynamo")
def test_a_compiled_model_draws_the_same_without_compiling_again() -> None:
    model: Any = a_model(nn.Linear(6, 6), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.1))
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph

    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(8, 6)
    for seed in range(3):
        with keyed(model, keys(8, seed)):
            assert torch.equal(compiled(x), model(x))
    assert len(compilations) == 1
