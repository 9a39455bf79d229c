"""What torch.compile keeps on disk, after processes that were killed while they compiled.

Inductor writes an entry beside its place and renames it, with one exception: what a C++ compiler builds. The linker
writes at the place itself, where the file lies empty for some hundredths of the time that the build takes (torch
2.15). When a process is killed together with its compiler, that file stays; every later process takes it for finished
and fails to load it. What tells it from a finished one is the build's scratch folder, which is left as well.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

_PRODUCTS = (".so", ".o", ".gch", ".load_ok")


def remove_unfinished_builds() -> None:
    """Delete what builds that were cut short have left; those that are under way, here or elsewhere, stay.

    Other processes may do the same, or build, in the meantime: what vanishes is no error.
    """
    from filelock import Timeout
    from torch._inductor.codecache import get_lock_dir
    from torch._inductor.cpp_builder import _BUILD_TEMP_DIR
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils._filelock import FileLock

    for folder, below, _ in os.walk(cache_dir()):
        for scratch in below:
            name = scratch.removesuffix(f"_{_BUILD_TEMP_DIR}")
            if name == scratch:
                continue
            try:
                with FileLock(os.path.join(get_lock_dir(), f"{name.partition('.')[0]}.lock"), timeout=0):
                    _remove(folder, name, scratch)
            except Timeout:
                continue


def _remove(folder: str, name: str, scratch: str) -> None:
    """Delete the products of the build that had a scratch folder, unless whoever had the lock has finished."""
    if not os.path.isdir(os.path.join(folder, scratch)):
        return
    for product in glob.glob(f"{glob.escape(os.path.join(folder, name))}.*"):
        if product.endswith(_PRODUCTS):
            Path(product).unlink(missing_ok=True)
    shutil.rmtree(os.path.join(folder, scratch), ignore_errors=True)
