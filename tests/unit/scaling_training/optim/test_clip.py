from __future__ import annotations

import pytest
import torch

from scaling_training.optim.clip import clip_gradients


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    found = [torch.nn.Parameter(torch.zeros(3, dtype=dtype)), torch.nn.Parameter(torch.zeros(2, 2, dtype=dtype))]
    found[0].grad = torch.tensor([1.0, 2.0, 2.0], dtype=dtype)
    found[1].grad = torch.full((2, 2), 2.0, dtype=dtype)
    return [*found, torch.nn.Parameter(torch.zeros(1))]


@pytest.mark.parametrize("max_norm", [0.5, 4.999, 5.001, 100.0])
def test_clipping_is_torchs(max_norm: float) -> None:
    ours, torchs = parameters(), parameters()
    assert clip_gradients(ours, max_norm).item() == pytest.approx(5.0)
    torch.nn.utils.clip_grad_norm_(torchs, max_norm)
    for one, other in zip(ours[:2], torchs[:2], strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_gradients_below_the_bound_stay_bit_for_bit() -> None:
    ours = parameters()
    clip_gradients(ours, 6.0)
    assert ours[0].grad is not None
    assert ours[0].grad.tolist() == [1.0, 2.0, 2.0]


def test_halves_whose_squares_exceed_their_range_are_clipped_right() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
    weight.grad = torch.tensor([30_000.0, 40_000.0], dtype=torch.float16)
    assert clip_gradients([weight], 5.0).item() == pytest.approx(50_000.0)
    assert weight.grad.tolist() == pytest.approx([3.0, 4.0], rel=1e-3)


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_gradients([torch.nn.Parameter(torch.zeros(1))], 1.0).item() == 0.0


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    found = parameters()
    assert found[0].grad is not None
    found[0].grad[0] = float("nan")
    assert not torch.isfinite(clip_gradients(found, 1.0))


def test_types_can_be_mixed() -> None:
    types = (torch.bfloat16, torch.float32, torch.float64)
    found = [torch.nn.Parameter(torch.zeros(1, dtype=dtype)) for dtype in types]
    for parameter, value in zip(found, (2.0, 3.0, 6.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    assert clip_gradients(found, 3.5).item() == pytest.approx(7.0)
    assert [parameter.grad.item() for parameter in found if parameter.grad is not None] == pytest.approx([1, 1.5, 3])
