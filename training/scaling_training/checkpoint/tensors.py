"""The tensors of a checkpoint in storage: what torch.distributed.checkpoint plans, in files without pickle.

Torch plans which process writes and reads which part of which tensor, for DTensors of any mesh and for plain
tensors, and so a checkpoint can be loaded on another mesh than it was saved on. This module is the pair of ends
that it asks for: `ShardWriter` writes a process's parts as safetensors files, `ShardReader` reads them. Where
each part lies is said in JSON, ``tensors.json``:

    {"model/conv.weight": {"dtype": "float32", "shape": [8, 3], "chunks": [
        {"file": "model-0000.safetensors", "offsets": [0, 0], "sizes": [4, 3]}, …]}}

The name of a tensor begins with what it belongs to, and each of those has a file of its own: whoever wants the
weights alone reads no optimizer. When one process writes everything, the files are whole (``model.safetensors``)
and any tool reads them. A tensor that all processes hold alike is written once, by the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save as save_together
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from scaling_training.checkpoint.manifest import CheckpointRef, DamagedError, FileEntry

LAYOUT = "tensors.json"
SEPARATOR = "/"

# https://github.com/huggingface/safetensors#format
_DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a part of a tensor was written; travels from each process to the first."""

    file: str
    entry: FileEntry


class ShardWriter(StorageWriter):
    """Writes this process's parts; the first process commits when all have written theirs.

    ``begin`` is called on the first process before any writes a file, and says which checkpoint is to be written: all
    processes hear it from there. ``write`` puts a file of it into storage and returns its size and hash. ``commit`` is
    called on the first process with all files once they are there. ``shard`` is this process's number, None when it
    writes everything.
    """

    def __init__(
        self,
        *,
        begin: Callable[[], CheckpointRef],
        write: Callable[[CheckpointRef, str, bytes | bytearray], FileEntry],
        commit: Callable[[CheckpointRef, dict[str, FileEntry]], None],
        shard: int | None,
    ) -> None:
        self._begin = begin
        self._write = write
        self._commit = commit
        self._shard = shard

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between saves."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As torch planned it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the first process, before the others hear what to write."""
        self._ref = self._begin()
        return [replace(plan, storage_data=self._ref) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """One file for each kind of tensor that this process writes."""
        ref: CheckpointRef = plan.storage_data
        kinds: dict[str, list[Any]] = {}
        for item in plan.items:
            kinds.setdefault(item.index.fqn.partition(SEPARATOR)[0], []).append(item)
        results = []
        for kind, items in kinds.items():
            image = file_image({_bare(item.index.fqn): _tensor(planner.resolve_data(item)) for item in items})
            name = f"{kind}.safetensors" if self._shard is None else f"{kind}-{self._shard:04d}.safetensors"
            stored = Stored(name, self._write(ref, name, image))
            results += [WriteResult(item.index, len(image), stored) for item in items]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the first process: write where everything lies, and commit."""
        written = {result.index: result.storage_data for of_process in results for result in of_process}
        layout = _layout_bytes(metadata, written)
        files = {stored.file: stored.entry for stored in written.values()}
        self._commit(self._ref, {**files, LAYOUT: self._write(self._ref, LAYOUT, layout)})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """No ids are used."""
        return False


class ShardReader(StorageReader):
    """Reads parts of tensors; ``read`` gives a file's content, verified."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._metadata = _layout(read(LAYOUT))

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between loads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What tensors there are."""
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As torch planned it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As torch planned it."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what the plan asks for into its targets, file by file."""
        from safetensors.torch import load

        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self._metadata.storage_data[item.storage_index], []).append(item)
        for file, items in by_file.items():
            parts = load(self._read(file))
            for item in items:
                part = parts[_bare(item.storage_index.fqn)]
                for dim, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                    part = part.narrow(dim, offset, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """No ids are used."""
        return False


def save(
    tensors: Mapping[str, torch.Tensor], writer: ShardWriter, group: torch.distributed.ProcessGroup | None
) -> None:
    """Write and commit. With a ``group`` all its processes call it; without one this process writes everything."""
    # Of what several processes hold alike the first one's counts: for batch norm's statistics that matters.
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    if group is not None:
        save_together(dict(tensors), storage_writer=writer, planner=planner, process_group=group)
        return
    # What torch does as well, less a warning that it does so without a process group.
    planner.set_up_planner(dict(tensors), None, is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    [plan] = writer.prepare_global_plan(plans)
    results = writer.write_data(planner.finish_plan(plan), planner).wait()
    writer.finish(metadata, [results])


def load(targets: Mapping[str, torch.Tensor], reader: ShardReader) -> None:
    """Fill the targets in place, plain tensors and DTensors, each process for itself.

    Every name must be in the checkpoint, with the same shape: see `shapes`.
    """
    planner = DefaultLoadPlanner()
    planner.set_up_planner(dict(targets), reader.read_metadata(), is_coordinator=True)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def shapes(reader: ShardReader) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Global shape and type of each tensor."""
    tensors = reader.read_metadata().state_dict_metadata.items()
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in tensors
        if isinstance(entry, TensorStorageMetadata)
    }


def file_image(tensors: Mapping[str, torch.Tensor]) -> bytearray:
    """The tensors as the bytes of a safetensors file: the size of a JSON header, the header, the values.

    The library's own `save` converts each tensor to Python bytes while it holds the interpreter's lock, which
    would stop training meanwhile; here the values are copied by torch, which lets it go.
    """
    header: dict[str, Any] = {}
    at = 0
    # Larger items first keep every tensor aligned to its own item size.
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    for name, tensor in ordered:
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} is of {tensor.dtype}, which checkpoints do not hold")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    image = bytearray(8 + len(head) + at)
    image[:8] = len(head).to_bytes(8, "little")
    image[8 : 8 + len(head)] = head
    for name, tensor in ordered:
        if tensor.numel():
            begin = 8 + len(head) + header[name]["data_offsets"][0]
            place = torch.frombuffer(image, dtype=tensor.dtype, count=tensor.numel(), offset=begin)
            place.copy_(tensor.detach().reshape(-1))
    return image


def _tensor(value: Any) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def _bare(name: str) -> str:
    return name.partition(SEPARATOR)[2]


def _layout_bytes(metadata: Metadata, written: Mapping[MetadataIndex, Stored]) -> bytes:
    layout = {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), f"{name} is no tensor"
        layout[name] = {
            "dtype": str(entry.properties.dtype).removeprefix("torch."),
            "shape": list(entry.size),
            "chunks": [
                {
                    "file": written[MetadataIndex(name, chunk.offsets)].file,
                    "offsets": list(chunk.offsets),
                    "sizes": list(chunk.sizes),
                }
                for chunk in entry.chunks
            ],
        }
    return json.dumps(layout).encode()


def _layout(data: bytes) -> Metadata:
    try:
        tensors: dict[str, Any] = {}
        files: dict[MetadataIndex, str] = {}
        for name, entry in json.loads(data).items():
            chunks = []
            for chunk in entry["chunks"]:
                offsets = torch.Size(chunk["offsets"])
                chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk["sizes"])))
                files[MetadataIndex(name, offsets)] = chunk["file"]
            dtype = getattr(torch, entry["dtype"])
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype), torch.Size(entry["shape"]), chunks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{LAYOUT} is not readable ({error})") from error
    return Metadata(state_dict_metadata=tensors, storage_data=files)
