from __future__ import annotations

import pytest

from scaling_api.parallelism import Parallelism
from scaling_training.errors import UserError
from scaling_training.parallel import Mesh, MeshShape, mesh_shape


@pytest.mark.parametrize(
    ("axes", "workers", "expected"),
    [
        pytest.param({}, 1, MeshShape(), id="one process"),
        pytest.param({}, 3, MeshShape(data=3), id="data is what there is"),
        pytest.param({"data": 4}, 4, MeshShape(data=4), id="data as given"),
        pytest.param({"fsdp": 4}, 4, MeshShape(fsdp=4), id="nothing left for data"),
        pytest.param({"fsdp": 2, "tensor": 2}, 12, MeshShape(data=3, fsdp=2, tensor=2), id="data is the rest"),
        pytest.param({"data": 2, "tensor": 2}, 4, MeshShape(data=2, tensor=2), id="all given"),
        pytest.param({"pipeline": 2}, 6, MeshShape(pipeline=2, data=3), id="stages, replicated"),
    ],
)
def test_the_shape_of_a_mesh(axes: dict[str, int], workers: int, expected: MeshShape) -> None:
    assert mesh_shape(Parallelism.model_validate(axes), workers) == expected


@pytest.mark.parametrize(
    ("axes", "workers", "batch", "fragment"),
    [
        pytest.param({"pipeline": 2}, 3, 128, "x pipeline 2 needs a multiple of 2", id="a stage without a process"),
        pytest.param({"tensor": 2}, 3, 128, "needs a multiple of 2 training processes, and there are 3", id="a rest"),
        pytest.param({"data": 2, "fsdp": 2}, 2, 128, "is 4 training processes, and there are 2", id="too few"),
        pytest.param({"data": 2}, 4, 128, "is 2 training processes, and there are 4", id="too many"),
        pytest.param(
            {"fsdp": 2}, 8, 7, "divides the samples of a step by 8, and it has 7", id="a rank without a sample"
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes: dict[str, int], workers: int, batch: int, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        mesh_shape(Parallelism.model_validate(axes), workers, batch_size=batch)


def test_tensor_ranks_are_neighbours_and_work_on_the_same_samples() -> None:
    shape = MeshShape(data=2, fsdp=2, tensor=2)
    places = [Mesh(shape, rank) for rank in range(shape.size)]
    assert [place.batch_rank for place in places] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [place.tensor_rank for place in places] == [0, 1] * 4
    assert [place.is_batch_leader for place in places] == [True, False] * 4


def test_the_last_stage_speaks_for_a_pipeline() -> None:
    shape = MeshShape(pipeline=2, data=2)
    places = [Mesh(shape, rank) for rank in range(shape.size)]
    assert [place.pipeline_rank for place in places] == [0, 0, 1, 1]
    assert [place.batch_rank for place in places] == [0, 1, 0, 1]
    assert [place.is_batch_leader for place in places] == [False, False, True, True]


def test_no_two_ranks_share_a_place() -> None:
    shape = MeshShape(pipeline=2, data=3, fsdp=2, tensor=4)
    assert len({shape.coordinates(rank) for rank in range(shape.size)}) == shape.size
    for rank in range(shape.size):
        assert all(at < size for at, size in zip(shape.coordinates(rank), shape.sizes, strict=True))


@pytest.mark.parametrize(
    ("shape", "text"), [(MeshShape(), "one process"), (MeshShape(fsdp=2, data=3), "data 3 x fsdp 2")]
)
def test_a_shape_reads_as_its_axes(shape: MeshShape, text: str) -> None:
    assert str(shape) == text
