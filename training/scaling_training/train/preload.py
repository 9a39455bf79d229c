"""Importing slow modules beside other work.

torch's optimizers and DistributedDataParallel import torch._dynamo when the first one is built (2 s of pure
Python), and torchmetrics pulls in torchvision (3 s). The first import is begun as soon as a training process
knows that it will train, while it joins its process group and loads data; the second after the first step.

Two threads that import different parts of one package may each see the other's half-made modules. So whoever
begins an import here must `wait` for it before touching the package's lazily imported parts.
"""

from __future__ import annotations

import importlib
import threading

# What building an optimizer imports.
OPTIMIZER_MODULES = ("torch", "torch._dynamo")
METRICS_MODULES = ("torchmetrics.functional.classification",)

_lock = threading.Lock()
_threads: dict[tuple[str, ...], threading.Thread] = {}


def begin(modules: tuple[str, ...]) -> None:
    """Import these modules in the background, once per process."""
    with _lock:
        if modules in _threads:
            return
        thread = threading.Thread(target=_import_all, args=(modules,), name=f"import-{modules[-1]}", daemon=True)
        _threads[modules] = thread
        thread.start()


def wait(modules: tuple[str, ...]) -> None:
    """Begin if nobody did, and return when the modules are imported or have failed to.

    A failure shows where the module is then imported in the ordinary way.
    """
    begin(modules)
    _threads[modules].join()


def _import_all(modules: tuple[str, ...]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            return
