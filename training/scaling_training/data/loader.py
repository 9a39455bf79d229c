"""Reading ahead in worker processes, by torch's DataLoader.

A worker reads one whole request after the other; the results come back in the order of the requests through
shared memory, as whole batches of bytes. The processes live as long as the stream, over all epochs, and end when
the iterator is closed, fails or is dropped. They are forked, so they share the list of files and start in no time;
they take no part in anything but reading and decoding.
"""

from __future__ import annotations

import multiprocessing.connection
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from scaling_training.data.errors import DataLostError, Ended, LoaderError
from scaling_training.data.order import rank_slice
from scaling_training.data.requests import Reading
from scaling_training.data.samples import Raw, Samples
from scaling_training.errors import UserError

_DYING_S = 2.0
# Of the container's control group: how many of its processes the kernel ended for lack of memory, among others.
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_KILLS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class _Reader(Dataset[Any]):
    """What a worker does: read what the sampler says. Errors of the data travel as values, to stay one sentence."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, work: Any) -> tuple[torch.Tensor | None, Any]:
        indices, crops = work
        try:
            raw = self._samples.read(indices, crops)
        except (UserError, DataLostError) as error:
            return None, error
        return torch.as_tensor(raw.values), dict(raw.unreadable)


def read_ahead(
    samples: Samples, readings: Iterator[Reading], *, workers: int, prefetch: int, pinned: bool, pieces: int = 1
) -> Iterator[tuple[Reading, Raw]]:
    """Each reading with what was read, in order, up to ``workers * prefetch / pieces`` readings ahead.

    ``pieces``: into how many parts a reading is divided; workers take them in turn, and nothing is pinned.
    ``pinned``: into page-locked memory, from which a GPU copies beside its work. LoaderError names a worker that
    died; UserError and DataLostError are what reading
    raised.
    """
    underway: deque[Reading] = deque()

    def taken() -> Iterator[tuple[Any, Any]]:
        for reading in readings:
            underway.append(reading)
            for piece in range(pieces):
                part = rank_slice(len(reading.samples), piece, pieces)
                yield reading.samples[part], None if reading.crops is None else reading.crops[part]

    loader = DataLoader(
        _Reader(samples),
        sampler=taken(),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pinned and pieces == 1,
        multiprocessing_context="fork",
    )
    with _signals_as_they_were():
        results: Any = iter(loader)
    parts: list[Raw] = []
    kills = kills_for_memory()
    try:
        while True:
            try:
                values, about = next(results)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # A batch whose memory is being handed over when its worker dies shows as a broken connection.
                raise _explained(error, results, kills) from error
            if values is None:
                raise about
            parts.append(Raw(values, about))
            if len(parts) == pieces:
                yield underway.popleft(), _joined(parts)
                parts = []
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


def _joined(parts: list[Raw]) -> Raw:
    if len(parts) == 1:
        return parts[0]
    starts = accumulate((len(part.values) for part in parts), initial=0)
    unreadable = {
        start + position: about
        for start, part in zip(starts, parts, strict=False)
        for position, about in part.unreadable.items()
    }
    whole: Any = torch.cat([torch.as_tensor(part.values) for part in parts])
    return Raw(whole, unreadable)


def _unchanged(value: Any) -> Any:
    return value


def kills_for_memory(events: Path = _MEMORY_EVENTS) -> int:
    """How many processes of this container the kernel has ended for lack of memory; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in events.read_text().splitlines())
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))


def how_ended(exit_codes: Iterable[int], *, killed_for_memory: bool) -> Ended:
    """How processes ended, by their exit codes (the negative number of a signal).

    SIGBUS is what a process gets when /dev/shm, through which batches travel, is full.
    """
    signals = {-code for code in exit_codes if code < 0}
    if signal.SIGBUS in signals or (killed_for_memory and signal.SIGKILL in signals):
        return Ended.MEMORY
    return Ended.KILLED if signals and signals <= _KILLS else Ended.CRASHED


def _explained(error: Exception, results: Any, kills: int) -> Exception:
    # Its connection may break a moment before the kernel calls it dead.
    multiprocessing.connection.wait([worker.sentinel for worker in results._workers], timeout=_DYING_S)
    dead = [worker for worker in results._workers if not worker.is_alive()]
    if not dead:
        return error
    how = how_ended([worker.exitcode for worker in dead], killed_for_memory=kills_for_memory() > kills)
    named = ", ".join(f"process {worker.pid} (exit code {worker.exitcode})" for worker in dead)
    return LoaderError(f"reading data ahead, {named} died; {_HELP[how]}", how)


_HELP = {
    Ended.MEMORY: "memory ran out: raise the workers' memory limit, of which /dev/shm is a part, or lower "
    "dataset.loader.workers or dataset.loader.prefetch",
    Ended.KILLED: "it was killed, not for this container's memory; when it comes again, lower dataset.loader.workers "
    "or raise the memory of the node",
    Ended.CRASHED: "it crashed in a library that decodes or reads: set dataset.loader.workers to 0 to see where",
}
