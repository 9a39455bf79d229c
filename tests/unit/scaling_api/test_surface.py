"""The fields that a user can write, frozen: a new one is a promise and should be a conscious act.

Change the list together with the models; removing or renaming a field breaks manifests that exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scaling_api.crd import schema

_SPEC = """
    spec.cluster
    spec.cluster.env[]
    spec.cluster.env[].name
    spec.cluster.env[].secretKeyRef
    spec.cluster.env[].secretKeyRef.key
    spec.cluster.env[].secretKeyRef.name
    spec.cluster.env[].value
    spec.cluster.head
    spec.cluster.head.resources
    spec.cluster.head.resources.limits[]
    spec.cluster.head.resources.requests[]
    spec.cluster.image
    spec.cluster.imagePullPolicy
    spec.cluster.imagePullSecrets[]
    spec.cluster.podOverrides
    spec.cluster.serviceAccountName
    spec.cluster.volumes[]
    spec.cluster.volumes[].claimName
    spec.cluster.volumes[].configMapName
    spec.cluster.volumes[].mountPath
    spec.cluster.volumes[].name
    spec.cluster.volumes[].readOnly
    spec.cluster.volumes[].secretName
    spec.cluster.workers[]
    spec.cluster.workers[].max
    spec.cluster.workers[].min
    spec.cluster.workers[].name
    spec.cluster.workers[].resources
    spec.cluster.workers[].resources.limits[]
    spec.cluster.workers[].resources.requests[]
    spec.cluster.workers[].slots
    spec.code
    spec.code.sha256
    spec.code.uri
    spec.dataset
    spec.dataset.arguments
    spec.dataset.augmentation
    spec.dataset.augmentation.crop
    spec.dataset.augmentation.crop.area
    spec.dataset.augmentation.crop.padding
    spec.dataset.augmentation.cutmix
    spec.dataset.augmentation.fill
    spec.dataset.augmentation.horizontalFlip
    spec.dataset.augmentation.mixup
    spec.dataset.augmentation.rotation
    spec.dataset.augmentation.shear
    spec.dataset.augmentation.shift
    spec.dataset.augmentation.verticalFlip
    spec.dataset.augmentation.zoom
    spec.dataset.channels
    spec.dataset.classWeights
    spec.dataset.classes
    spec.dataset.factory
    spec.dataset.imageSize
    spec.dataset.loader
    spec.dataset.loader.prefetch
    spec.dataset.loader.workers
    spec.dataset.name
    spec.dataset.normalization
    spec.dataset.normalization.mean[]
    spec.dataset.normalization.source
    spec.dataset.normalization.std[]
    spec.dataset.samples
    spec.dataset.sampling
    spec.dataset.split
    spec.dataset.split.seed
    spec.dataset.split.test
    spec.dataset.split.validation
    spec.dataset.unreadable
    spec.dataset.uri
    spec.model
    spec.model.arguments
    spec.model.dropout
    spec.model.factory
    spec.model.freeze[]
    spec.model.freeze[].layers
    spec.model.freeze[].untilEpoch
    spec.model.head
    spec.model.name
    spec.model.weights
    spec.model.weights.name
    spec.model.weights.sha256
    spec.model.weights.uri
    spec.model.width
    spec.runPolicy
    spec.runPolicy.activeDeadlineSeconds
    spec.runPolicy.backoffLimit
    spec.runPolicy.cleanPodPolicy
    spec.runPolicy.suspend
    spec.runPolicy.ttlSecondsAfterFinished
    spec.storage
    spec.storage.claimName
    spec.storage.resumeFrom
    spec.storage.secretRef
    spec.storage.secretRef.name
    spec.storage.uri
    spec.training
    spec.training.accumulation
    spec.training.activationCheckpointing
    spec.training.batchSize
    spec.training.checkpoint
    spec.training.checkpoint.everyEpochs
    spec.training.checkpoint.everySteps
    spec.training.checkpoint.keep
    spec.training.clipNorm
    spec.training.compile
    spec.training.deterministic
    spec.training.earlyStopping
    spec.training.earlyStopping.metric
    spec.training.earlyStopping.minDelta
    spec.training.earlyStopping.mode
    spec.training.earlyStopping.patience
    spec.training.elastic
    spec.training.elastic.batch
    spec.training.elastic.rateRule
    spec.training.elastic.referenceWorkers
    spec.training.elastic.warmupEpochs
    spec.training.ema
    spec.training.ema.decay
    spec.training.epochs
    spec.training.labelSmoothing
    spec.training.optimizer
    spec.training.optimizer.beta1
    spec.training.optimizer.beta2
    spec.training.optimizer.epsilon
    spec.training.optimizer.excludeBiases
    spec.training.optimizer.learningRate
    spec.training.optimizer.momentum
    spec.training.optimizer.name
    spec.training.optimizer.nesterov
    spec.training.optimizer.trustCoefficient
    spec.training.optimizer.weightDecay
    spec.training.parallelism
    spec.training.parallelism.auto
    spec.training.parallelism.batchNorm
    spec.training.parallelism.data
    spec.training.parallelism.fsdp
    spec.training.parallelism.pipeline
    spec.training.parallelism.tensor
    spec.training.precision
    spec.training.schedule
    spec.training.schedule.everyEpochs
    spec.training.schedule.factor
    spec.training.schedule.floor
    spec.training.schedule.milestones[]
    spec.training.schedule.name
    spec.training.schedule.patience
    spec.training.schedule.threshold
    spec.training.schedule.warmupFraction
    spec.training.seed
    spec.training.update
    spec.training.update.maxStaleness
    spec.training.update.mode
    spec.training.update.outer
    spec.training.update.outer.momentum
    spec.training.update.outer.nesterov
    spec.training.update.outer.rate
    spec.training.update.shards
    spec.training.update.stalenessScaling
    spec.training.update.steps
"""


def _fields(path: str, node: dict[str, Any]) -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        field, inner = f"{path}.{name}", child
        while "items" in inner or "additionalProperties" in inner:
            field, inner = f"{field}[]", inner.get("items") or inner["additionalProperties"]
        yield field
        yield from _fields(field, inner)


def test_the_spec_has_these_fields() -> None:
    assert sorted(_fields("spec", schema()["properties"]["spec"])) == _SPEC.split()
