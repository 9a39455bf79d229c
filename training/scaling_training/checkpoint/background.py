"""Writing a checkpoint while training goes on.

The tensors are copied to the CPU's memory, which is all that training waits for; a thread writes the copy. One
save is in flight at a time: the copy's memory is used again for the next, so a second save waits for the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import torch


class Staging:
    """Memory on the CPU that tensors are copied into; it is allocated once and is pinned beside a GPU."""

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor] = {}

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies that stay as they are until the next call; of a DTensor, this process's part as a DTensor."""
        from torch.distributed.tensor import DTensor

        staged: dict[str, torch.Tensor] = {}
        waits = False
        for name, tensor in tensors.items():
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            copy = self._copies.get(name)
            if copy is None or copy.shape != local.shape or copy.dtype != local.dtype:
                copy = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
                self._copies[name] = copy
            copy.copy_(local.detach(), non_blocking=local.is_cuda)
            waits = waits or local.is_cuda
            # The constructor and not from_local, which would move the copy to the mesh's device.
            staged[name] = DTensor(copy, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else copy
        if waits:
            torch.cuda.current_stream().synchronize()
        return staged


class BackgroundSaver:
    """Runs one save at a time on a thread."""

    def __init__(self) -> None:
        self._staging = Staging()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.blocked_s = 0.0  # how long the last save kept its caller
        self.longest_s = 0.0  # the longest write so far, from its begin to its commit

    def save(self, tensors: Mapping[str, torch.Tensor], write: Callable[[Mapping[str, torch.Tensor]], None]) -> None:
        """Wait for the save in flight, copy the tensors, and have ``write`` called with the copies.

        Raises what the save before it raised.
        """
        began = time.monotonic()
        self.wait()
        staged = self._staging.copy(tensors)
        self._thread = threading.Thread(target=self._run, args=(write, staged), name="save", daemon=True)
        self._thread.start()
        self.blocked_s = time.monotonic() - began

    def poll(self) -> bool:
        """Whether a save has ended since the last call, without waiting; raises what it raised."""
        if self._thread is None or self._thread.is_alive():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait for the save in flight, if there is one; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[Mapping[str, torch.Tensor]], None], staged: Mapping[str, torch.Tensor]) -> None:
        began = time.monotonic()
        try:
            write(staged)
        except BaseException as error:
            self._error = error
        self.longest_s = max(self.longest_s, time.monotonic() - began)
