"""The mesh: which part of the work each process takes.

Four axes, the outermost first: pipeline, data, fsdp, tensor. Neighbouring ranks differ in the tensor coordinate, so
that the axis which communicates most stays within a machine. The processes that differ only in their data and fsdp
coordinates divide the batch among themselves (*batch ranks*); those that differ only in the tensor and pipeline
coordinates work on the same samples.

The arithmetic is pure; ``Mesh`` adds the process groups, all of them from one torch DeviceMesh, which also keeps the
axes of size 1: whoever asks for an axis gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scaling_api.parallelism import Parallelism
from scaling_training.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from scaling_training.world import World

AXES = ("pipeline", "data", "fsdp", "tensor")
_BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True, slots=True)
class MeshShape:
    """How many processes each axis has."""

    pipeline: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.pipeline * self.data * self.fsdp * self.tensor

    @property
    def batch_ranks(self) -> int:
        """Among how many the samples of a step are divided."""
        return self.data * self.fsdp

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """In the order of AXES."""
        return (self.pipeline, self.data, self.fsdp, self.tensor)

    def coordinates(self, rank: int) -> tuple[int, int, int, int]:
        """Where a rank stands on each axis, in the order of AXES; the last one varies fastest."""
        rest, tensor = divmod(rank, self.tensor)
        rest, fsdp = divmod(rest, self.fsdp)
        pipeline, data = divmod(rest, self.data)
        return (pipeline, data, fsdp, tensor)

    def __str__(self) -> str:
        named = [f"{axis} {size}" for axis, size in zip(AXES, self.sizes, strict=True) if size > 1]
        return " x ".join(named) or "one process"


@dataclass(frozen=True, slots=True)
class Layout:
    """What ``parallelism.auto`` decides: the mesh, and the micro-batches that it takes to fit into memory."""

    shape: MeshShape
    micro_batches: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Layout:
        """The inverse of `to_dict`."""
        return cls(MeshShape(**value["shape"]), value["micro_batches"])


def mesh_shape(parallelism: Parallelism, workers: int, *, batch_size: int | None = None) -> MeshShape:
    """The mesh of so many workers; ``data`` is what the other axes leave when it is absent.

    UserError when the axes do not multiply to the number of workers, or leave a batch rank without a sample.
    """
    fsdp, tensor, pipeline = parallelism.fsdp, parallelism.tensor, parallelism.pipeline
    group = parallelism.model_group
    sizes = f"fsdp {fsdp} x tensor {tensor} x pipeline {pipeline}"
    if parallelism.data is None and workers % group:
        raise UserError(
            f"training.parallelism: {sizes} needs a multiple of {group} training processes, and there are {workers}; "
            f"change the axes or the number of workers"
        )
    data = parallelism.data or workers // group
    shape = MeshShape(pipeline=pipeline, data=data, fsdp=fsdp, tensor=tensor)
    if shape.size != workers:
        raise UserError(
            f"training.parallelism: data {data} x {sizes} is {shape.size} training processes, and there are {workers}; "
            f"make them equal, or leave out parallelism.data to take what is there"
        )
    if batch_size is not None and batch_size < shape.batch_ranks:
        raise UserError(
            f"training.parallelism: data x fsdp divides the samples of a step by {shape.batch_ranks}, and it has "
            f"{batch_size}; lower an axis, or raise training.batchSize (gradient-descent: add data)"
        )
    return shape


@dataclass(frozen=True, slots=True)
class Mesh:
    """This process's place, and the process groups. Made by every rank at the same point."""

    shape: MeshShape
    rank: int
    # None for a single process, which needs no group.
    device_mesh: DeviceMesh | None = field(default=None, repr=False)
    batch_group: ProcessGroup | None = field(default=None, repr=False)

    @classmethod
    def of(cls, parallelism: Parallelism, world: World, *, batch_size: int | None = None) -> Mesh:
        """The mesh over all processes of the world; UserError as ``mesh_shape``. A collective operation."""
        return cls.laid(mesh_shape(parallelism, world.size, batch_size=batch_size), world)

    @classmethod
    def laid(cls, shape: MeshShape, world: World) -> Mesh:
        """The mesh of this shape, whose size is the world's. A collective operation."""
        assert shape.size == world.size, f"{shape} over {world.size} processes"
        if world.size == 1:
            return cls(shape, world.rank)
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        device_mesh = init_device_mesh(world.device.type, shape.sizes, mesh_dim_names=AXES)
        if shape.batch_ranks == 1:
            batch_group = None
        elif shape.batch_ranks == world.size:
            batch_group = dist.group.WORLD
        else:
            batch_group = device_mesh[_BATCH_AXES]._flatten("batch").get_group()
        return cls(shape, world.rank, device_mesh, batch_group)

    @property
    def pipeline_rank(self) -> int:
        """The coordinate on the pipeline axis: which stage this process holds."""
        return self.shape.coordinates(self.rank)[0]

    @property
    def tensor_rank(self) -> int:
        """The coordinate on the tensor axis: which slice of each sharded layer this process holds."""
        return self.shape.coordinates(self.rank)[3]

    @property
    def batch_rank(self) -> int:
        """Which slice of the global batch this process takes, of ``batch_ranks``."""
        _, data, fsdp, _ = self.shape.coordinates(self.rank)
        return data * self.shape.fsdp + fsdp

    @property
    def batch_ranks(self) -> int:
        """Among how many the samples of a step are divided."""
        return self.shape.batch_ranks

    @property
    def is_batch_leader(self) -> bool:
        """Whether this process counts for its samples, when what is counted is added up over all processes.

        Exactly one process of those that work on the same samples does: in a pipeline one of the last stage, which has
        the model's output.
        """
        pipeline, _, _, tensor = self.shape.coordinates(self.rank)
        return pipeline == self.shape.pipeline - 1 and tensor == 0

    def group(self, axis: str) -> ProcessGroup | None:
        """The processes that differ from this one on this axis alone; None when the axis has size 1."""
        if self.device_mesh is None or self.shape.sizes[AXES.index(axis)] == 1:
            return None
        return self.device_mesh.get_group(axis)

    def axis(self, *names: str) -> DeviceMesh:
        """The part of the device mesh along these axes; only for several processes."""
        assert self.device_mesh is not None
        return self.device_mesh[names]
