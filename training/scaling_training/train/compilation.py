"""torch.compile, and when it is at work."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from scaling_training.data.batches import Batch
from scaling_training.errors import UserError
from scaling_training.train.compile_cache import remove_unfinished_builds

# By kind of device: the language of what is compiled there, the variable that names the compiler, where to look
# without it, and the package that has one. On a GPU that is no kernel, but what Triton launches kernels by.
_COMPILERS = {
    "cpu": ("C++", "CXX", ("g++", "clang++", "c++"), "g++"),
    "cuda": ("C", "CC", ("gcc", "clang"), "gcc libc6-dev"),
}


def check_compiler(device_type: str) -> None:
    """UserError when torch.compile lacks what it needs on such a device, which else shows in the first step only."""
    language, variable, names, package = _COMPILERS[device_type]
    help_ = f"install it in cluster.image (apt-get install {package}), or set training.compile to false"
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        where = "on machines without a GPU" if device_type == "cpu" else "on GPUs, too"
        raise UserError(f"training.compile needs a {language} compiler {where}, and none is there; {help_}")
    if device_type == "cuda" and not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise UserError(
            "training.compile needs Python's headers on GPUs, and Python.h is not there; take a cluster.image with "
            "Python's development files, or set training.compile to false"
        )


class Compilation:
    """Compiles a model in place and foresees in which steps that happens.

    torch compiles when a function first meets its arguments, and once more for a batch of another size (an epoch's
    last one) or when other parameters get gradients (staged unfreezing): a step that usually takes milliseconds
    then takes a minute.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = tuple(model.parameters())
        self._met: set[tuple[object, ...]] = set()
        remove_unfinished_builds()
        model.compile()

    def meets_new(self, batch: Batch) -> bool:
        """Whether the forward and backward pass of ``batch`` is the first of its kind; asked once for each."""
        wanting = sum(parameter.requires_grad for parameter in self._parameters)
        kind = (batch.inputs.shape, batch.inputs.dtype, wanting)
        if kind in self._met:
            return False
        self._met.add(kind)
        return True
