from __future__ import annotations

import pytest
from torch import nn

from scaling_training.errors import UserError
from scaling_training.parallel import Mesh, MeshShape
from scaling_training.parallel.parallelize import check_model
from scaling_training.parallel.plans import architecture_of, tensor_plan
from scaling_training.parallel.roles import Role
from tests.unit.scaling_training.parallel.small_models import a_task


def roles(model: nn.Module) -> dict[str, str]:
    return {path: role.value for path, role in tensor_plan(model, 2, name="it").items()}


def test_a_chain_is_pairs_of_column_and_row_and_a_whole_head() -> None:
    assert roles(a_task("small-cnn").model) == {
        "0": "column",
        "1": "local",
        "4": "row",
        "8": "column",
        "9": "local",
        "13": "row",
    }
    assert roles(a_task("mnist-cnn").model) == {"0": "column", "4": "row"}


def test_dropout_stays_outside_of_a_pair() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    assert roles(model) == {"2": "column", "4": "row"}


def test_an_inverted_residual_is_a_column_a_depthwise_and_a_row() -> None:
    plan = tensor_plan(a_task("mobilenet").model, 2, name="mobilenet_v2")
    block = {
        path.removeprefix("features.2.conv."): role for path, role in plan.items() if path.startswith("features.2.")
    }
    assert block == {"0.0": Role.COLUMN, "0.1": Role.LOCAL, "1.0": Role.LOCAL, "1.1": Role.LOCAL, "2": Role.ROW}
    assert not any(path.startswith(("features.0.", "features.1.")) for path in plan)
    assert plan["classifier"] is Role.GATHER


def test_every_block_of_the_whole_mobilenet_is_divided() -> None:
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(num_classes=7)
    plan = tensor_plan(model, 8, name="mobilenet_v2")
    assert sum(role is Role.ROW for role in plan.values()) == 16
    check_model(model, Mesh(MeshShape(tensor=8), 0), name="mobilenet_v2")


def test_a_transformer_is_divided_by_heads_and_hidden_features() -> None:
    plan = {path: role for path, role in roles(a_task("transformer").model).items() if path.startswith("blocks.0.")}
    assert plan == {
        "blocks.0.attention": "enter",
        "blocks.0.attention.query": "inner",
        "blocks.0.attention.key": "inner",
        "blocks.0.attention.value": "inner",
        "blocks.0.attention.output": "row",
        "blocks.0.mlp.up": "column",
        "blocks.0.mlp.down": "row",
    }


@pytest.mark.parametrize(
    ("model", "tensor", "fragment"),
    [
        pytest.param(
            a_task("small-cnn").model, 3, "does not divide the 4 channels of layer 0 of model it", id="channels"
        ),
        pytest.param(a_task("transformer").model, 3, "does not divide the 4 attention heads", id="heads"),
        pytest.param(nn.GRU(4, 4), 2, "the layers of model it are not of a kind that can be divided", id="unknown"),
        pytest.param(nn.Sequential(nn.Linear(4, 4)), 2, "use parallelism.data or fsdp", id="nothing to divide"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_starts(model: nn.Module, tensor: int, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        check_model(model, Mesh(MeshShape(tensor=tensor), 0), name="it")


def test_any_model_can_be_replicated_and_sharded() -> None:
    model = nn.GRU(4, 4)
    assert architecture_of(model) is None
    check_model(model, Mesh(MeshShape(data=2, fsdp=2), 0), name="it")
