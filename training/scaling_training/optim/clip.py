"""Gradient clipping by the global norm (Pascanu, Mikolov and Bengio 2013).

With g all gradients as one vector: g <- g * min(1, max_norm / (||g||_2 + 1e-6)), torch's own formula. The norm
is that of the whole model on whatever mesh, so the clipped step does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

from scaling_training.optim.tensors import full_norms, local

_TINY = 1e-6


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[torch.nn.Parameter], max_norm: float, *, stages: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Scale the gradients in place so that their global L2 norm is at most ``max_norm``; returns the norm before.

    Parameters may be plain tensors and DTensors on any meshes, mixed; those without a gradient are left out.
    Every process must call it at the same point. ``stages`` is the group over which a pipeline's stages, each
    with parameters of its own, are divided. The norm is one element on the gradients' device, equal on all
    processes; it is not finite when a gradient is not, and the gradients then are spoilt too.
    """
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = full_norms(gradients)
    total = norms.double().square().sum()
    if stages is not None:
        # A stage whose layers are all frozen has no gradient to say where its norm is.
        total = total.to(next(iter(parameters)).device)
        dist.all_reduce(total, group=stages)
    norm = total.sqrt()
    scale = torch.clamp(max_norm / (norm + _TINY), max=1.0)
    # Always multiplied, also by 1: asking whether to would make the host wait for the device.
    if gradients:
        torch._foreach_mul_([local(gradient) for gradient in gradients], scale.to(norms.dtype))
    return norm
