"""The key of the work: two checkpoints with equal keys may continue one another.

Everything that the trained weights depend on is in it: model, data (by fingerprint) and training, without
what changes only where, by which kernels and how often something is computed or saved.

A key tells nothing of what it was made from. So that a run which does not fit another one can say why, the parts of
each key are kept beside the checkpoints: ``checkpoints/work/<key>.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint.nesting import flat
from scaling_training.sources import source_digests, without_secrets
from scaling_training.storage import Storage

# Left out of the training section: any world size and any number of micro-batches give the same update, and saving
# changes nothing; other kernels round otherwise, as another world size does. So who ran out of memory goes on from the
# last checkpoint with what needs less.
_INDIFFERENT = frozenset(
    {"parallelism", "checkpoint", "accumulation", "activationCheckpointing", "compile", "deterministic"}
)
_NAMED = 3  # differences that a sentence names


def key_parts(spec: ScalingJobSpec, data_fingerprint: str) -> dict[str, Any]:
    """What the key is made from, as JSON values: model, dataset, training, and digests of data, weights and code.

    Of parallelism only how batch norm works counts. What may be a secret in a URI is left out. Weights to start from
    and code are fetched when the spec names some; UserError when they cannot be.
    """
    training = spec.training.to_json_dict()
    return {
        "model": without_secrets(spec.model.to_json_dict()),
        # Who reads the files, and how far ahead, changes no batch.
        "dataset": without_secrets(
            {name: value for name, value in spec.dataset.to_json_dict().items() if name != "loader"}
        ),
        "training": {name: value for name, value in training.items() if name not in _INDIFFERENT},
        "batchNorm": spec.training.parallelism.batch_norm,
        "data": data_fingerprint,
        **source_digests(spec),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The key that is made from these parts: their SHA-256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def note_work(storage: Storage, parts: Mapping[str, Any]) -> None:
    """Keep the parts of a key in a run folder, for `noted_work`."""
    storage.write(_note(key_of(parts)), json.dumps(parts, indent=1, sort_keys=True).encode())


def noted_work(storage: Storage, key: str) -> dict[str, Any] | None:
    """What a key of this run folder was made from; None when nobody noted it."""
    try:
        parts = json.loads(storage.read(_note(key)))
    except (FileNotFoundError, ValueError):
        return None
    return parts if isinstance(parts, dict) else None


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two keys' parts, in words: "training.epochs is 5 there and 10 here"."""
    old, new = flat(there, "."), flat(here, ".")
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    told = [_told(name, old.get(name), new.get(name)) for name in names[:_NAMED]]
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(told + more)


def _told(name: str, there: Any, here: Any) -> str:
    if name in _CONTENT:
        return f"{_CONTENT[name]} is another one"
    there, here = ("absent" if value is None else json.dumps(value) for value in (there, here))
    return f"{_NAMES.get(name, name)} is {there} there and {here} here"


# Parts that are hashes, which say nothing.
_CONTENT = {
    "data": "the content of the data set",
    "code": "the content of code",
    "weights": "the content of the weights",
}
_NAMES = {"batchNorm": "training.parallelism.batchNorm"}


def _note(key: str) -> str:
    return f"checkpoints/work/{key}.json"
