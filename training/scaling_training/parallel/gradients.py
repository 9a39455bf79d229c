"""The mean of the gradients over the processes that hold the same parameters.

Buckets are sent round while the backward pass still computes, as DDP does (Li et al., arXiv:2006.15704), but their
layout is a function of the model alone: parameters in reverse order, cut at fixed sizes. DDP lays its buckets anew
after the first step, in the order in which gradients came. With three or more processes the place of a number in a
bucket decides in which order its parts are added, so there a resumed run, whose first step is another one, would
differ in the last bits from the run that was never interrupted. DDP also knows no DTensors.

Buckets are sent in the order of their layout on every rank, whatever gradients are ready first. A parameter that no
gradient reached counts as zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from scaling_training.optim.tensors import local

# Bytes. The first bucket is small so that it leaves early; the sizes are DDP's.
_FIRST_BUCKET = 2**20
_BUCKET = 25 * 2**20


class MeanGradients:
    """Averages the gradients of parameters over a group, in the backward pass."""

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
        self._parameters = list(parameters)
        self._group = group
        self._wanting: list[nn.Parameter] = []
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._next = 0  # the first bucket that was not sent yet
        self._open = False
        self._hooked: set[nn.Parameter] = set()

    def open(self) -> None:
        """Send gradients from now on, as they come; before the backward pass of a step's last micro-batch."""
        wanting = [parameter for parameter in self._parameters if parameter.requires_grad]
        # By identity: tensors compare by their numbers.
        if list(map(id, wanting)) != list(map(id, self._wanting)):
            self._lay(wanting)
        for bucket in self._buckets:
            bucket.missing = len(bucket.slots)
        self._next = 0
        self._open = True

    def close(self) -> None:
        """Wait until every ``grad`` holds the mean; after the backward pass."""
        self._open = False
        self._send(self._buckets[self._next :])
        for bucket in self._buckets:
            bucket.receive()

    def abandon(self) -> None:
        """Send nothing more: the backward pass failed."""
        self._open = False

    def _lay(self, parameters: list[nn.Parameter]) -> None:
        self._wanting = parameters
        for parameter in parameters:
            if parameter not in self._hooked:
                # Not before: torch takes no hook for what wants no gradient, and layers may be unfrozen later.
                parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
                self._hooked.add(parameter)
        self._buckets = [_Bucket(part) for part in cut(parameters[::-1])]
        self._bucket_of = {slot.parameter: bucket for bucket in self._buckets for slot in bucket.slots}

    def _arrived(self, parameter: torch.Tensor) -> None:
        if not self._open:
            return
        assert isinstance(parameter, nn.Parameter)
        self._bucket_of[parameter].missing -= 1
        ready = self._next
        while ready < len(self._buckets) and not self._buckets[ready].missing:
            ready += 1
        self._send(self._buckets[self._next : ready])

    def _send(self, buckets: Sequence[_Bucket]) -> None:
        for bucket in buckets:
            bucket.send(self._group)
        self._next += len(buckets)


def cut(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of the same type and device, each cut once it reaches the size of a bucket."""
    run: list[nn.Parameter] = []
    run_kind: tuple[torch.dtype, torch.device] | None = None
    size, limit = 0, _FIRST_BUCKET
    for parameter in parameters:
        here = local(parameter)
        kind = (here.dtype, here.device)
        if run and (size >= limit or kind != run_kind):
            yield run
            run, size, limit = [], 0, _BUCKET
        run_kind = kind
        run.append(parameter)
        size += here.numel() * here.element_size()
    if run:
        yield run


@dataclass(slots=True)
class _Slot:
    parameter: nn.Parameter
    place: torch.Tensor  # where its gradient lies in the bucket, shaped as the local part
    gradient: torch.Tensor  # the same memory as a gradient of the parameter: a DTensor when it is one


class _Bucket:
    def __init__(self, parameters: list[nn.Parameter]) -> None:
        first = local(parameters[0])
        self.flat = torch.zeros(
            sum(local(parameter).numel() for parameter in parameters), dtype=first.dtype, device=first.device
        )
        self.slots: list[_Slot] = []
        self.missing = 0
        self._work: dist.Work | None = None
        offset = 0
        for parameter in parameters:
            here = local(parameter)
            # Strides as the parameter's, so that optimizers find both laid out alike.
            place = self.flat[offset : offset + here.numel()].as_strided(here.shape, here.stride(), offset)
            offset += here.numel()
            self.slots.append(_Slot(parameter, place, _as_gradient(parameter, place)))

    def send(self, group: dist.ProcessGroup) -> None:
        sources, places = [], []
        for slot in self.slots:
            if slot.parameter.grad is slot.gradient:
                continue
            if slot.parameter.grad is None:
                slot.place.zero_()
                continue
            sources.append(local(slot.parameter.grad))
            places.append(slot.place)
        if places:
            torch._foreach_copy_(places, sources)
        self.flat.div_(dist.get_world_size(group))
        self._work = dist.all_reduce(self.flat, group=group, async_op=True)

    def receive(self) -> None:
        assert self._work is not None
        self._work.wait()
        self._work = None
        for slot in self.slots:
            slot.parameter.grad = slot.gradient


def _as_gradient(parameter: nn.Parameter, place: torch.Tensor) -> torch.Tensor:
    if not isinstance(parameter, DTensor):
        return place
    return DTensor.from_local(
        place,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
