"""The spec of a ScalingJob: what a user writes.

Types and bounds become the CRD's schema; rules over several fields become its CEL rules. Every list, map
and string is bounded, because the API server refuses CEL rules over unbounded ones as too costly. Only
sections that are built are here. Each section has a module of its own (model, dataset, training, cluster);
here is what ties them together. What an edit may change is in edits.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from scaling_api.base import Model, Rule
from scaling_api.cluster import (
    Cluster,
    EnvVar,
    Head,
    PodOverrides,
    Resources,
    SecretKey,
    Volume,
    WorkerGroup,
    exactly_one,
)
from scaling_api.code import Arguments, CodeSpec
from scaling_api.constraints import Editable, Pattern
from scaling_api.dataset import Augmentation, Crop, DatasetSpec, LoaderSpec, NormalizationSpec, SplitSpec
from scaling_api.model import FreezeSpec, ModelSpec, WeightsSpec
from scaling_api.optim import CLASSIFICATION_METRICS, EarlyStopping, EmaSpec, OptimizerSpec, ScheduleSpec
from scaling_api.parallelism import Parallelism
from scaling_api.scalars import (
    API_VERSION,
    GROUP,
    JOB_NAME,
    KIND,
    MAX_GROUP_NAME,
    MAX_JOB_NAME,
    MAX_WORKERS_PER_GROUP,
    PLURAL,
    VERSION,
    ObjectName,
)
from scaling_api.training import CheckpointSpec, TrainingSpec

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "MAX_GROUP_NAME",
    "MAX_JOB_NAME",
    "MAX_WORKERS_PER_GROUP",
    "PLURAL",
    "VERSION",
    "Arguments",
    "Augmentation",
    "CheckpointSpec",
    "Cluster",
    "CodeSpec",
    "Crop",
    "DatasetSpec",
    "EarlyStopping",
    "EmaSpec",
    "EnvVar",
    "FreezeSpec",
    "Head",
    "LoaderSpec",
    "ModelSpec",
    "NormalizationSpec",
    "ObjectMeta",
    "OptimizerSpec",
    "Parallelism",
    "PodOverrides",
    "Resources",
    "RunPolicy",
    "ScalingJob",
    "ScalingJobSpec",
    "ScheduleSpec",
    "SecretKey",
    "SecretRef",
    "SplitSpec",
    "Storage",
    "TrainingSpec",
    "Volume",
    "WeightsSpec",
    "WorkerGroup",
]

# The authority holds no colon, so that nobody writes a password where logs will show it.
_STORE = Pattern(
    r"(s3|gs|gcs|az|abfs|file)://[^\s:]*[^\s:/][^\s:]*",
    "an object store's address: write s3://, gs://, az:// or abfs:// and a bucket, perhaps a prefix, no password",
)
_EARLIER_RUN = Pattern(
    r"\.?[^/.][^/]*(/\.?[^/.][^/]*)*/?",
    "a folder below the storage root: write it without a leading / and without ..",
)


class SecretRef(Model):
    """A Secret in the job's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class Storage(Model):
    """Where checkpoints, the ledger, artifacts and the report go. It outlives the job: neither deletion nor
    TTL touch it."""

    claim_name: ObjectName | None = Field(
        None, description="A PersistentVolumeClaim that every pod of the job can mount (ReadWriteMany)."
    )
    uri: Annotated[str, StringConstraints(min_length=1, max_length=1024), _STORE] | None = Field(
        None, description="An object store location, e.g. s3://bucket/prefix."
    )
    secret_ref: SecretRef | None = Field(
        None,
        description="A Secret whose keys become environment variables of every pod: the object store's credentials.",
    )
    resume_from: Annotated[str, StringConstraints(min_length=1, max_length=1024), _EARLIER_RUN] | None = Field(
        None,
        description="An earlier run's folder, relative to the storage root; its finished stages and checkpoints are "
        "reused.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *exactly_one("claimName", "uri"),
            sentence="storage needs exactly one of claimName (a PersistentVolumeClaim) and uri (an object store)",
            field="",
        ),
        Rule(
            "!has(self.secretRef) || has(self.uri)",
            lambda self: self.secret_ref is None or self.uri is not None,
            "secretRef {secretRef.name} holds an object store's credentials: it goes with uri, not with claimName",
            field="secretRef",
        ),
    )


class RunPolicy(Model):
    """How the job runs, retries and ends. May be edited while running."""

    suspend: bool = Field(
        False, description="True: save a checkpoint and release all pods. False again: go on from there."
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        3,
        description="New attempts after failures before the job fails. Suspending does not count, nor do drains, "
        "preemptions and lost nodes.",
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None,
        description="Time the job may be active, over all attempts; suspension pauses the clock. When it is over, the "
        "driver saves a checkpoint, and the job has failed.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="Delete the finished job after so long; storage is never touched."
    )
    clean_pod_policy: Literal["All", "Running", "None"] = Field(
        "All",
        description="Which pods to delete when the job ends: all, only those still running, or none but those that "
        "would not end by themselves (as the head at activeDeadlineSeconds).",
    )


def _slots(cluster: Cluster) -> int:
    return sum(group.max * group.slots for group in cluster.workers)


class ScalingJobSpec(Model):
    """What to train, on what data, how, and where."""

    storage: Storage | None = Field(
        None, description="Where results go. Required on a cluster; a run on one machine has a folder."
    )
    model: ModelSpec = Field(description="The network.")
    dataset: DatasetSpec = Field(description="The data.")
    code: CodeSpec | None = Field(None, description="The user's modules, for factories; the image's alone when absent.")
    training: TrainingSpec = Field(description="The training stage.")
    cluster: Cluster = Field(default_factory=Cluster, description="The Ray cluster.")
    run_policy: Annotated[RunPolicy, Editable()] = Field(
        default_factory=RunPolicy, description="How the job runs, retries and ends."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.storage)",
            lambda self: self.storage is not None,
            "storage is missing: name a claimName that all pods can mount, or the uri of an object store",
            field="storage",
            on_cluster_only=True,
        ),
        Rule(
            "(has(self.training.parallelism.data) ? self.training.parallelism.data : 1) "
            "* self.training.parallelism.fsdp * self.training.parallelism.tensor "
            "* self.training.parallelism.pipeline <= self.cluster.workers.map(w, w.max * w.slots).sum()",
            lambda self: (
                (self.training.parallelism.workers or self.training.parallelism.model_group) <= _slots(self.cluster)
            ),
            "parallelism asks for more training processes (the product of its axes) than cluster.workers offer (max "
            "times slots, over all groups); lower an axis or raise max",
            field="training.parallelism",
            on_cluster_only=True,
        ),
        Rule(
            "has(self.model.factory) || has(self.dataset.factory) || !has(self.training.earlyStopping) || "
            "!has(self.training.earlyStopping.metric) || "
            f"self.training.earlyStopping.metric in {list(CLASSIFICATION_METRICS)}",
            lambda self: (
                self.model.factory is not None
                or self.dataset.factory is not None
                or self.training.early_stopping is None
                or self.training.early_stopping.metric in (None, *CLASSIFICATION_METRICS)
            ),
            "training.earlyStopping.metric is none that classification has: write "
            f"{', '.join(CLASSIFICATION_METRICS[:-1])} or {CLASSIFICATION_METRICS[-1]}",
            field="training.earlyStopping.metric",
        ),
        Rule(
            "self.training.update.mode != 'async' || !has(self.model.freeze) || "
            "self.model.freeze.all(f, !has(f.untilEpoch))",
            lambda self: (
                self.training.update.mode != "async" or all(stage.until_epoch is None for stage in self.model.freeze)
            ),
            "model.freeze: workers in update mode async do not reach an epoch together; leave out untilEpoch or choose "
            "another training.update.mode",
            field="model.freeze",
        ),
    )


class ObjectMeta(Model):
    """The part of metadata that is checked; everything else passes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_JOB_NAME), JOB_NAME]
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None


class ScalingJob(Model):
    """A whole manifest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    api_version: Literal["scaling.dev/v1alpha1"]
    kind: Literal["ScalingJob"]
    metadata: ObjectMeta
    spec: ScalingJobSpec
