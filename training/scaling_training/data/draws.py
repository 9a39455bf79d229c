"""The random generators of a process, while code of the user's runs that may draw from them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# What torch's generator has when torch is imported: so it makes no difference whether that was before or within.
_SEED = 67280421310721


@contextmanager
def steady_draws() -> Iterator[None]:
    """Let what is drawn from Python's, numpy's and torch's global generators be the same within, in every process.

    A random division in a factory, or a random transform, then gives the same on all machines and after a resume.
    Afterwards the generators are as they were.
    """
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    state = torch.get_rng_state() if torch is not None else None
    random.seed(_SEED)
    np.random.seed(_SEED % 2**32)
    if torch is not None:
        torch.default_generator.manual_seed(_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(state)
