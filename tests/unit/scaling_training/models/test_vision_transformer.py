from __future__ import annotations

import pytest
import torch

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.vision_transformer import Attention, VisionTransformer


def built(shape: tuple[int, int, int], width: float = 0.25) -> VisionTransformer:
    model = build_task(ModelSpec(name="vit-tiny", width=width), input_shape=shape, classes=5, seed=0).model
    assert isinstance(model, VisionTransformer)
    return model.eval()


@pytest.mark.parametrize(
    ("shape", "patches"),
    [((1, 8, 8), 16), ((1, 28, 28), 49), ((3, 32, 32), 64), ((3, 16, 24), 24), ((3, 96, 96), 64)],
)
def test_an_image_is_cut_into_patches(shape: tuple[int, int, int], patches: int) -> None:
    model = built(shape)
    assert model.positions.shape[1] == patches
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("size", [(31, 31), (2, 2), (7, 9)])
def test_an_image_that_no_patch_covers_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"which {size[0]}x{size[1]} does not allow"):
        built((1, *size))


@pytest.mark.parametrize(("width", "heads"), [(0.125, 1), (0.5, 2), (1.0, 4), (2.0, 8)])
def test_the_width_is_a_number_of_heads(width: float, heads: int) -> None:
    attention = built((1, 8, 8), width).get_submodule("blocks.0.attention")
    assert isinstance(attention, Attention)
    assert (attention.heads, attention.head_size) == (heads, 32)


def test_attention_is_torchs_own_over_the_same_weights() -> None:
    torch.manual_seed(0)
    attention, x = Attention(64, head_size=32).double(), torch.randn(3, 7, 64, dtype=torch.float64)
    reference = torch.nn.MultiheadAttention(64, 2, batch_first=True).double()
    with torch.no_grad():
        parts = [getattr(attention, name) for name in ("query", "key", "value")]
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.load_state_dict(attention.output.state_dict())
    torch.testing.assert_close(attention(x), reference(x, x, x)[0])


def test_a_process_may_hold_some_of_the_heads() -> None:
    """Rows of query, key and value and columns of output: what each makes of its heads adds up to the whole."""
    torch.manual_seed(0)
    whole, x = Attention(64, head_size=32).double(), torch.randn(3, 7, 64, dtype=torch.float64)
    total = whole.output.bias.detach().clone().expand(3, 7, 64)
    for half in (slice(0, 32), slice(32, 64)):
        part = Attention(64, head_size=32).double()
        for name in ("query", "key", "value"):
            source, layer = getattr(whole, name), getattr(part, name)
            layer.weight = torch.nn.Parameter(source.weight[half])
            layer.bias = torch.nn.Parameter(source.bias[half])
        part.output.weight = torch.nn.Parameter(whole.output.weight[:, half])
        part.output.register_parameter("bias", None)
        total = total + part(x)
    torch.testing.assert_close(total, whole(x))


def test_the_stages_of_a_pipeline_are_the_whole() -> None:
    model, images = built((1, 8, 8)), torch.randn(2, 1, 8, 8)
    x = model.embed(images)
    for block in model.blocks:
        x = block(x)
    torch.testing.assert_close(model.classify(x), model(images))
