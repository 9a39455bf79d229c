"""The weights of a checkpoint, whole, in one process without a process group: for evaluation and the report."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from scaling_training.checkpoint.checkpoints import open_checkpoint
from scaling_training.checkpoint.manifest import CheckpointRef
from scaling_training.errors import UserError
from scaling_training.storage import Storage


def weights_file(storage: Storage, ref: CheckpointRef, kind: Literal["model", "ema"] = "model") -> bytes:
    """The weights as one safetensors file, whatever mesh they were saved on; no other tensors are read.

    Raises DamagedError naming the file that is not as its manifest says.
    """
    opened = open_checkpoint(storage, ref)
    if (whole := f"{kind}.safetensors") in opened.manifest.files:
        return opened.read(whole)
    # Torch's planning takes seconds to import, which whole files do not need.
    from scaling_training.checkpoint.tensors import ShardReader, file_image, load, shapes

    reader = ShardReader(opened.read)
    targets = {
        name: torch.empty(shape, dtype=dtype)
        for name, (shape, dtype) in shapes(reader).items()
        if name.startswith(f"{kind}/")
    }
    load(targets, reader)
    return bytes(file_image({name.removeprefix(f"{kind}/"): tensor for name, tensor in targets.items()}))


def load_weights(data: bytes, model: nn.Module) -> None:
    """Put the weights of a safetensors file into the model; UserError when they do not fit."""
    from safetensors.torch import load as parse

    try:
        model.load_state_dict(parse(data))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint's weights do not fit spec.model: {first}") from error
