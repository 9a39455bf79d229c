"""Images in files, decoded when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.decode import decode, size_of
from scaling_training.data.naming import shown
from scaling_training.data.place import Place
from scaling_training.data.samples import Raw, UnreadableError, read_each


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files with their classes.

    Names are one array of bytes, not a list of objects: forked reading processes would copy a list page by
    page as they touch its reference counts.
    """

    place: Place
    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]  # bytes
    labels: NDArray[np.int64]
    image_size: int  # pixels a side
    channels: int
    crop_area: float | None = None  # the smallest share of a random-resized crop

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> NDArray[np.int64]:
        """The class of each sample."""
        return self.labels

    @property
    def max_value(self) -> int:
        """Files hold bytes."""
        return 255

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def in_memory(self) -> bool:
        """Never."""
        return False

    def take(self, indices: NDArray[np.int64]) -> ImageFiles:
        """The samples at these indices, in this order."""
        return ImageFiles(
            self.place,
            self.names[indices],
            self.sizes[indices],
            self.labels[indices],
            self.image_size,
            self.channels,
            self.crop_area,
        )

    def read(self, indices: NDArray[np.int64], crops: NDArray[np.float64] | None = None) -> Raw:
        """The pictures, see `Samples.read`; UserError when no sample of a class can be read."""
        values = np.empty((len(indices), *self.shape), dtype=np.uint8)

        def one(position: int, index: int) -> NDArray[np.uint8]:
            return self.decoded(index, None if crops is None else crops[position])

        return read_each(self, indices, one, into=values)

    def decoded(self, index: int, draws: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """One picture, [channel, height, width]; UnreadableError with the reason when it cannot be read."""
        crop = None if draws is None or self.crop_area is None else (draws, self.crop_area)
        try:
            data = self.bytes_of(index)
        except OSError as error:
            raise UnreadableError(error.strerror or "the file is not there") from error
        if not data:
            raise UnreadableError("the file is empty")
        return decode(data, size=self.image_size, channels=self.channels, crop=crop)

    def bytes_of(self, index: int) -> bytes:
        """The file's content; OSError when it is not there."""
        return self.place.read(self._path_of(index))

    def picture_size(self, index: int) -> tuple[int, int]:
        """Width and height of the picture in the file, which must be readable."""
        return size_of(self.bytes_of(index))

    def name_of(self, index: int) -> str:
        """The file, relative to the data set's place, as it may be shown."""
        return shown(self._path_of(index))

    def _path_of(self, index: int) -> str:
        return bytes(self.names[index]).decode("utf-8", "surrogateescape")
