"""The key of the work: two checkpoints with equal keys may continue one another.

Everything that the trained weights depend on is in it: model, data (by fingerprint) and training, without
what changes only where and how often something is computed or saved.
"""

from __future__ import annotations

import hashlib
import json

from scaling_api.spec import ScalingJobSpec
from scaling_training.sources import source_digests

# Left out of the training section: any world size and any number of micro-batches give the same update, and saving
# changes nothing. So who ran out of memory goes on from the last checkpoint with what needs less.
_INDIFFERENT = frozenset({"parallelism", "checkpoint", "accumulation", "activationCheckpointing"})


def checkpoint_key(spec: ScalingJobSpec, data_fingerprint: str) -> str:
    """A SHA-256 over model, dataset, training, and the content that they name: data, weights and code.

    Of parallelism only how batch norm works counts. Weights to start from and code are fetched when the spec names
    some; UserError when they cannot be.
    """
    training = spec.training.to_json_dict()
    parts = {
        "model": spec.model.to_json_dict(),
        # Who reads the files, and how far ahead, changes no batch.
        "dataset": {name: value for name, value in spec.dataset.to_json_dict().items() if name != "loader"},
        "training": {name: value for name, value in training.items() if name not in _INDIFFERENT},
        "batchNorm": spec.training.parallelism.batch_norm,
        "data": data_fingerprint,
        **source_digests(spec),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
