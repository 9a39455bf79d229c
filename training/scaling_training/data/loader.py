"""Reading ahead in worker processes, by torch's DataLoader.

A worker reads one whole request after the other; the results come back in the order of the requests through
shared memory, as whole batches of bytes. The processes live as long as the stream, over all epochs, and end when
the iterator is closed, fails or is dropped. They are forked, so they share the list of files and start in no time;
they take no part in anything but reading and decoding.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from scaling_training.data.samples import Raw, Samples
from scaling_training.errors import UserError

if TYPE_CHECKING:
    from scaling_training.data.feed import Reading


class LoaderError(Exception):
    """A worker process ended before its time."""


class _Reader(Dataset[Any]):
    """What a worker does: read what the sampler says. A user's mistake travels as a value, to stay one sentence."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, work: Any) -> tuple[torch.Tensor | None, Any]:
        indices, crops = work
        try:
            raw = self._samples.read(indices, crops)
        except UserError as error:
            return None, str(error)
        return torch.as_tensor(raw.values), dict(raw.unreadable)


def read_ahead(
    samples: Samples, readings: Iterator[Reading], *, workers: int, prefetch: int, pinned: bool
) -> Iterator[tuple[Reading, Raw]]:
    """Each reading with what was read, in order, up to ``workers * prefetch`` readings ahead.

    ``pinned``: into page-locked memory, from which a GPU copies beside its work. LoaderError names a worker that
    died; UserError is what reading raised.
    """
    underway: deque[Reading] = deque()

    def taken() -> Iterator[tuple[Any, Any]]:
        for reading in readings:
            underway.append(reading)
            yield reading.samples, reading.crops

    loader = DataLoader(
        _Reader(samples),
        sampler=taken(),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pinned,
        multiprocessing_context="fork",
    )
    with _signals_as_they_were():
        results: Any = iter(loader)
    try:
        while True:
            try:
                values, about = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explained(error) from error
            if values is None:
                raise UserError(about)
            yield underway.popleft(), Raw(values, about)
    finally:
        # What dropping the last reference does too; but an exception's traceback may hold one for long.
        results._shutdown_workers()


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Undo DataLoader's handler of SIGCHLD, which would raise in the midst of whatever runs when a worker dies.

    Waiting for the next batch finds the loss as well, within seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)


def _unchanged(value: Any) -> Any:
    return value


def _explained(error: RuntimeError) -> Exception:
    text = str(error)
    if not text.startswith("DataLoader worker"):
        return error
    first = text.splitlines()[0].rstrip(". ")
    return LoaderError(
        f"a process that reads data ahead died: {first}; when memory ran out, raise the workers' memory limit or lower "
        "dataset.loader.workers"
    )
