"""One fit leaves the process as it found it, so that the next one gives what it would give alone.

What a fit sets of the whole process, and what user code may: which kernels torch takes, threads, random numbers that
nobody hands around, what torch.compile knows. Settings are put back when the fit ends; random numbers begin from the
fit's seed. A job's own modules are taken away when another fit begins: see `scaling_training.code`.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.world import World

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def contained(
    fit: Callable[Concatenate[ScalingJobSpec, Given], Outcome],
) -> Callable[Concatenate[ScalingJobSpec, Given], Outcome]:
    """A function that trains a spec as a process of the ``world`` that it is given, with all of this around it."""

    @functools.wraps(fit)
    def around(spec: ScalingJobSpec, /, *args: Given.args, **kwargs: Given.kwargs) -> Outcome:
        world: Any = kwargs["world"]
        with _settings_put_back(), _random_numbers_from(spec.training.seed, world):
            try:
                return fit(spec, *args, **kwargs)
            finally:
                if spec.training.compile:
                    # It compiles a module's code so many times at most, and then leaves it as it is.
                    torch._dynamo.reset()

    return around


@contextmanager
def _settings_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    threads, cublas = torch.get_num_threads(), os.environ.get(CUBLAS)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        if cublas is None:
            os.environ.pop(CUBLAS, None)
        else:
            os.environ[CUBLAS] = cublas


@contextmanager
def _random_numbers_from(seed: int, world: World) -> Iterator[None]:
    """Of torch, numpy and Python, for user code that draws some; each process has others."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        own = (seed * 2**16 + world.rank) % 2**32
        torch.manual_seed(own)
        np.random.seed(own)
        random.seed(own)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
