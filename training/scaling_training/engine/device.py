"""Which device a training process computes on: the GPU that Ray gave it, or the CPU when it was given none.

What the process sees says nothing about that: Ray narrows CUDA_VISIBLE_DEVICES for those that asked for a GPU, and
leaves it alone for the others, which would all find the machine's first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling_training.errors import UserError

if TYPE_CHECKING:
    import torch


def device_for(gpus: float) -> torch.device:
    """The device of a process with so many GPUs, made the current one.

    UserError when it was given one and CUDA does not work: on CPUs the job would take days, and nobody would know why.
    """
    import torch

    if not gpus:
        return torch.device("cpu")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"a training process was given a GPU, but CUDA does not work there ({why}): "
            "use a cluster.image with a torch for the node's driver, or ask for no GPUs in cluster.workers"
        ) from error
    # Ray shows the process its own GPU only, so that one is number 0.
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device
