"""The model as it leaves a run: weights as safetensors, the architecture as JSON, and the code of a factory.

Together they rebuild the model without pickle and without the run's spec. The architecture also says how an image
becomes an input: divide by ``maxValue``, subtract ``mean``, divide by ``std``, each per channel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from scaling_api.spec import ModelSpec, ScalingJobSpec
from scaling_training.errors import UserError
from scaling_training.report.trained import TrainedModel
from scaling_training.sources import without_secrets
from scaling_training.storage import Storage

if TYPE_CHECKING:
    from scaling_training.data import Dataset

WEIGHTS = "model.safetensors"
ARCHITECTURE = "architecture.json"
CODE = "code"
FORMAT = 1


def write_model(write: Callable[[str, bytes], None], weights: bytes, spec: ScalingJobSpec, dataset: Dataset) -> None:
    """Write the model of a job. ``weights`` are a checkpoint's, as safetensors; ``write`` puts a file in its folder."""
    normalisation = dataset.normalisation
    architecture = {
        "format": FORMAT,
        "model": without_secrets(spec.model.to_json_dict()),
        "inputShape": list(dataset.input_shape),
        "classes": list(dataset.class_names),
        # What comes out: a score for each class or label, or numbers.
        "kind": dataset.kind,
        "outputs": dataset.outputs,
        # None: the inputs are no images, the model takes them as they are.
        "normalisation": normalisation
        and {"maxValue": dataset.max_value, "mean": list(normalisation.mean), "std": list(normalisation.std)},
    }
    if spec.model.factory is not None and spec.code is not None:
        from scaling_training.code import modules

        for name, content in modules(spec.code).items():
            write(f"{CODE}/{name}", content)
    write(WEIGHTS, weights)
    write(ARCHITECTURE, json.dumps(architecture, indent=1).encode())


def load_model(folder: str | Storage) -> TrainedModel:
    """The model that `write_model` wrote, ready for inference; ``folder`` is a path or an address.

    The code of a factory lies beside it and is run: load only what you trust. UserError when the folder holds no model
    that this version reads.
    """
    from scaling_training.checkpoint.weights import load_weights
    from scaling_training.models import build_task

    storage = Storage(folder) if isinstance(folder, str) else folder
    try:
        architecture = json.loads(storage.read(ARCHITECTURE))
        weights = storage.read(WEIGHTS)
    except FileNotFoundError as error:
        raise UserError(
            f"{storage.url()} holds no model: {ARCHITECTURE} or {WEIGHTS} is missing; name the model folder of a run"
        ) from error
    if architecture.get("format") != FORMAT:
        raise UserError(
            f"{storage.url(ARCHITECTURE)} has format {architecture.get('format')}; this version reads {FORMAT}"
        )
    if storage.exists(CODE):
        from scaling_training.code import install_kept

        install_kept(Storage(storage.url(CODE)))
    kind = architecture.get("kind", "classes")
    task = build_task(
        ModelSpec.model_validate(architecture["model"]),
        input_shape=tuple(architecture["inputShape"]),
        classes=architecture.get("outputs", len(architecture["classes"])),
        kind=kind,
        class_names=architecture["classes"],
        seed=0,
        initial_weights=False,
    )
    load_weights(weights, task.model)
    task.model.eval()
    return TrainedModel(task, kind=kind, class_names=tuple(architecture["classes"]), architecture=architecture)
