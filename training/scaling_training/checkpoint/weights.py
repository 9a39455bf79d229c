"""The weights of a checkpoint, whole, in one process without a process group: for evaluation and the report."""

from __future__ import annotations

import torch
from torch import nn

from scaling_training.checkpoint.catalog import LoadedCheckpoint, open_checkpoint, usable
from scaling_training.checkpoint.manifest import WHOLE_MODEL, CheckpointRef
from scaling_training.checkpoint.state import EMA, MODEL
from scaling_training.errors import UserError
from scaling_training.storage import Storage

WHOLE_EMA = "ema.safetensors"


def weights_file(storage: Storage, ref: CheckpointRef) -> bytes:
    """What is evaluated and kept, as one safetensors file, whatever mesh it was saved on.

    That is the weights, or their moving averages where there are some; nothing else is read. UserError naming the
    file that is not as its manifest says.
    """
    with usable(ref):
        return _weights_file(open_checkpoint(storage, ref))


def checkpoint_file(storage: Storage, ref: CheckpointRef, name: str) -> bytes:
    """One file of a checkpoint, verified; UserError when it is not as its manifest says."""
    with usable(ref):
        return open_checkpoint(storage, ref).read(name)


def _weights_file(opened: LoadedCheckpoint) -> bytes:
    if WHOLE_MODEL in opened.manifest.files and WHOLE_EMA not in opened.manifest.files:
        return opened.read(WHOLE_MODEL)
    # Torch's planning takes seconds to import, which whole files do not need.
    from scaling_training.checkpoint.tensors import ShardReader, file_image, load, shapes

    reader = ShardReader(opened.read)
    saved = shapes(reader)
    names = [name.removeprefix(f"{MODEL}/") for name in saved if name.startswith(f"{MODEL}/")]
    sources = {name: f"{EMA}/{name}" if f"{EMA}/{name}" in saved else f"{MODEL}/{name}" for name in names}
    targets = {source: torch.empty(saved[source][0], dtype=saved[source][1]) for source in sources.values()}
    load(targets, reader)
    return bytes(file_image({name: targets[source] for name, source in sources.items()}))


def load_weights(data: bytes, model: nn.Module) -> None:
    """Put the weights of a safetensors file into the model; UserError when they do not fit."""
    from safetensors.torch import load as parse

    try:
        model.load_state_dict(parse(data))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint's weights do not fit spec.model: {first}") from error
