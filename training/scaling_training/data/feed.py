"""From the samples of a split to the batches of a step: read, move to the device, augment, normalise, mix.

Reading is what may take long. Samples in memory are read when they are asked for; files are read ahead by
worker processes (see loader), a request each, in the order of the requests. Everything random is a function of
(seed, epoch, sample), drawn in this process; so neither the number of workers nor a resume changes a batch, and
going on at any place costs the same.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from scaling_training.data.augment import ImageAugmentation
from scaling_training.data.batches import Batch
from scaling_training.data.mix import Mixing
from scaling_training.data.normalise import Normalisation
from scaling_training.data.random import Purpose, SampleWords
from scaling_training.data.requests import Reading, Request
from scaling_training.data.samples import Raw, Samples
from scaling_training.errors import UserError

log = logging.getLogger(__name__)


class Feed:
    """The batches of one split on one device.

    ``unreadable``: what to do with a sample that cannot be read, ``fail`` or ``skip``. Skipped, it is replaced by
    the next readable sample of its class where the number of samples is fixed (`get`, `stream`), and left out of
    a `stretch`, so that an evaluation counts no sample twice.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        device: torch.device,
        seed: int,
        normalisation: Normalisation | None = None,
        augmentation: ImageAugmentation | None = None,
        mixing: Mixing | None = None,
        workers: int = 0,
        prefetch: int = 2,
        unreadable: str = "fail",
    ) -> None:
        self._samples = samples
        self._targets = torch.from_numpy(samples.targets)
        self._device = device
        self._keys = SampleWords(seed, Purpose.KEY, samples=len(samples), width=1)
        self._augmentation = augmentation
        self._mixing = mixing
        self._workers = workers
        self._prefetch = prefetch
        self._skip = unreadable == "skip"
        self._unreadable: dict[str, str] = {}
        self.skipped = 0  # how often a sample of a batch was replaced or left out, in this process
        self._mean = self._std = torch.empty(0)
        if normalisation is not None:
            channels = (1, -1, 1, 1)
            self._mean = torch.tensor(normalisation.mean, device=device).reshape(channels)
            self._std = torch.tensor(normalisation.std, device=device).reshape(channels)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def unreadable(self) -> dict[str, str]:
        """The samples that were skipped so far in this process, with the reason."""
        return dict(self._unreadable)

    @property
    def ahead(self) -> int:
        """How many requests a `stream` that is read ``together`` takes before the one that is asked for."""
        return self._prefetch if self._workers else 0

    def get(self, epoch: int, indices: NDArray[np.int64]) -> Batch:
        """These samples as they look in this epoch, read now."""
        reading = self._reading(Request(epoch, indices))
        return self._batch(reading, self._samples.read(reading.samples, reading.crops))

    def stream(self, requests: Iterable[Request], *, together: bool = False) -> Generator[Batch]:
        """A batch for each request, in their order. Closing the iterator ends the processes that read ahead.

        With workers the requests are taken ``workers * prefetch`` batches ahead, each read by one of them;
        ``together`` all of them read each request, and only ``prefetch`` are taken ahead. LoaderError when a worker
        dies.
        """
        readings = map(self._reading, requests)
        for reading, raw in self._read_ahead(readings, pieces=self._workers if together else 1):
            yield self._batch(reading, raw)

    def stretch(self, samples: slice, size: int) -> Iterator[Batch]:
        """The samples of a slice of the split in their own order, in batches of at most ``size``."""
        starts = range(samples.start, samples.stop, size)
        requests = (Request(0, np.arange(start, min(start + size, samples.stop))) for start in starts)
        for reading, raw in self._read_ahead(map(self._reading, requests)):
            batch = self._batch(reading, raw)
            if raw.unreadable:
                kept = [position for position in range(len(batch)) if position not in raw.unreadable]
                batch = Batch(batch.inputs[kept], batch.targets[kept], batch.keys[kept])
            if len(batch):
                yield batch

    def _read_ahead(self, readings: Iterator[Reading], pieces: int = 1) -> Iterator[tuple[Reading, Raw]]:
        if not self._workers:
            return ((reading, self._samples.read(reading.samples, reading.crops)) for reading in readings)
        from scaling_training.data.loader import read_ahead

        pinned = self._device.type == "cuda"
        return read_ahead(
            self._samples, readings, workers=self._workers, prefetch=self._prefetch, pinned=pinned, pieces=pieces
        )

    def _reading(self, request: Request) -> Reading:
        pairs = self._mixing.pairs(request.epoch, request.indices) if self._mixing is not None else None
        indices = request.indices if pairs is None else pairs.indices
        crops = None
        if self._augmentation is not None and self._augmentation.reader_crops:
            crops = self._augmentation.crop_draws(request.epoch, indices)
        return Reading(request, pairs, self._of_the_split(indices), crops)

    def _of_the_split(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        count = len(self._samples)
        return indices if not len(indices) or int(indices.max()) < count else indices % count

    def _batch(self, reading: Reading, raw: Raw) -> Batch:
        if raw.unreadable:
            self._note(raw, own=len(reading.request.indices))
        epoch, indices = reading.request.epoch, reading.request.indices
        everything = indices if reading.pairs is None else reading.pairs.indices
        inputs = self._inputs(torch.as_tensor(raw.values), epoch, everything)
        targets = self._targets[torch.from_numpy(reading.samples)].to(self._device)
        keys = (self._keys.of(epoch, indices)[:, 0] >> np.uint64(1)).astype(np.int64)
        if self._mixing is not None and reading.pairs is not None:
            inputs, targets = self._mixing.apply(inputs, targets, reading.pairs, epoch)
        return Batch(inputs, targets, torch.from_numpy(keys).to(self._device))

    def _inputs(self, values: torch.Tensor, epoch: int, indices: NDArray[np.int64]) -> torch.Tensor:
        values = values.to(self._device, non_blocking=True)
        max_value = self._samples.max_value
        if max_value is None:
            return values.float() if values.is_floating_point() else values.long()
        images = values.float().div_(max_value)
        if self._augmentation is not None:
            images = self._augmentation.apply(images, epoch, indices)
        return images.sub_(self._mean).div_(self._std)

    def _note(self, raw: Raw, *, own: int) -> None:
        if not self._skip:
            name, reason = next(iter(raw.unreadable.values()))
            raise UserError(
                f"dataset: {name} cannot be read ({reason}); mend or remove it, or set dataset.unreadable to skip"
            )
        # What follows a batch's own samples are partners for mixing, which are some other batch's own.
        self.skipped += sum(position < own for position in raw.unreadable)
        for name, reason in raw.unreadable.values():
            if name not in self._unreadable:
                self._unreadable[name] = reason
                log.warning("Skipped %s, which cannot be read (%s); so far %d", name, reason, len(self._unreadable))
