"""Going over many samples outside of training: which ones, and by several threads where that helps."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.files import ImageFiles
from scaling_training.data.random import Purpose, permutation
from scaling_training.data.samples import Raw, Samples

_CHUNK = 256  # samples in memory
_DECODED_CHUNK = 16
_MOST_THREADS = 8


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of 0..count-1, sorted; all when they are few enough, else a random selection, always the same.

    Random, because every tenth of ten classes that take turns would be one class.
    """
    if count <= most:
        return np.arange(count)
    return np.sort(permutation(0, Purpose.LOOK, 0, count)[:most])


def read_chunks(samples: Samples, indices: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Raw]]:
    """The samples in their order, some at a time, each with its indices.

    Files are decoded by threads (PIL lets go of Python's lock); a user's own data set is asked by one alone.
    """
    if not isinstance(samples, ImageFiles):
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            yield chunk, samples.read(chunk)
        return
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    underway: deque[tuple[NDArray[np.int64], Future[Raw]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for start in range(0, len(indices), _DECODED_CHUNK):
            chunk = indices[start : start + _DECODED_CHUNK]
            underway.append((chunk, pool.submit(samples.read, chunk)))
            if len(underway) > 2 * threads:
                done, future = underway.popleft()
                yield done, future.result()
        while underway:
            done, future = underway.popleft()
            yield done, future.result()
