"""The spec of a ScalingJob: what a user writes.

Types and bounds become the CRD's schema; rules over several fields become its CEL rules. Every list and
string is bounded, because an unbounded one makes the API server refuse CEL rules over it as too costly.
Only sections that are built are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from scaling_api.base import Model, Rule

GROUP = "scaling.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ScalingJob"
PLURAL = "scalingjobs"

# Every derived name must fit a DNS label of 63: job(40)-attempt(3)-group(10)-index(3)-incarnation(3).
MAX_JOB_NAME = 40
MAX_GROUP_NAME = 10
MAX_WORKERS_PER_GROUP = 999

DNS_1035 = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_1123_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=DNS_1123_SUBDOMAIN)]
# YAML's `cpu: 1` is a number; Kubernetes takes both, so it is read as the string that it stands for.
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    StringConstraints(min_length=1, max_length=20, pattern=QUANTITY),
]


def _exactly_one(*names: str) -> tuple[str, Callable[[Any], bool]]:
    """CEL and Python for "exactly one of these optional fields is set" (camelCase names)."""
    cel = "[" + ", ".join(f"has(self.{name})" for name in names) + "].filter(x, x).size() == 1"

    def holds(model: Any) -> bool:
        dumped = model.to_json_dict()
        return sum(name in dumped for name in names) == 1

    return cel, holds


class SecretRef(Model):
    """A Secret in the job's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class Storage(Model):
    """Where checkpoints, the ledger, artifacts and the report go. It outlives the job: neither deletion nor TTL touch it."""

    claim_name: ObjectName | None = Field(
        None, description="A PersistentVolumeClaim that every pod of the job can mount (ReadWriteMany)."
    )
    uri: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=1024, pattern=r"^(s3|gs|gcs|az|abfs|memory|file)://.+$"),
        ]
        | None
    ) = Field(None, description="An object store location, e.g. s3://bucket/prefix.")
    secret_ref: SecretRef | None = Field(
        None,
        description="A Secret whose keys become environment variables of every pod: the object store's credentials.",
    )
    resume_from: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        None,
        description="An earlier run's folder, relative to the storage root; its finished stages and checkpoints are reused.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *_exactly_one("claimName", "uri"),
            sentence="storage needs exactly one of claimName (a PersistentVolumeClaim) and uri (an object store)",
            field="",
        ),
        Rule(
            "!has(self.secretRef) || has(self.uri)",
            lambda self: self.secret_ref is None or self.uri is not None,
            "storage.secretRef holds an object store's credentials: it goes with uri, not with claimName",
            field="secretRef",
        ),
    )


class ModelSpec(Model):
    """The network to train."""

    name: Literal["small-cnn"] = Field(
        description="small-cnn: convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512."
    )
    width: Annotated[float, Field(ge=0.125, le=8)] = Field(1.0, description="Multiplier of all channel counts.")


class Augmentation(Model):
    """Random affine changes of the training images, drawn anew for each sample and epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Largest rotation, degrees, either way.")
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Largest shift along each axis, as a fraction of the image."
    )
    zoom: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="Largest change of scale: 0.1 draws from 0.9 to 1.1."
    )
    shear: Annotated[float, Field(ge=0, le=60)] = Field(0.0, description="Largest shear, degrees, either way.")


class DatasetSpec(Model):
    """The data to train on."""

    name: Literal["digits", "mnist-5k"] = Field(
        description="digits: scikit-learn's 1,797 8x8 digits. mnist-5k: 5,000 MNIST images, split 3,500/500/1,000."
    )
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="Random changes of the training images."
    )


class OptimizerSpec(Model):
    """The update rule."""

    name: Literal["sgd", "adam", "adamw"] = Field("adam", description="Which optimizer.")
    learning_rate: Annotated[float, Field(gt=0, le=100)] = Field(
        1e-3, description="Learning rate; under a schedule its peak."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="L2 penalty (sgd, adam) or decoupled decay (adamw)."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="Momentum of sgd; 0 when absent.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.momentum) || self.name == 'sgd'",
            lambda self: self.momentum is None or self.name == "sgd",
            "optimizer.momentum belongs to sgd, not to {name}",
            field="momentum",
        ),
    )


class ScheduleSpec(Model):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant",
        description="constant; cosine: half a cosine down to 0; one-cycle: cosine up to the peak, then down to almost 0.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="Share of all steps spent rising: linearly for constant and cosine, by a cosine for one-cycle.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name != 'one-cycle' || self.warmupFraction > 0.0",
            lambda self: self.name != "one-cycle" or self.warmup_fraction > 0,
            "schedule one-cycle needs a warmupFraction above 0 (0.3 is usual); it is {warmupFraction}",
            field="warmupFraction",
        ),
    )


class Parallelism(Model):
    """How the work of a step is divided."""

    data: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Data-parallel training processes. Absent: all slots of the workers, elastically between their min and "
        "max; without a cluster one per GPU, or one.",
    )


class CheckpointSpec(Model):
    """When to save, and how much to keep."""

    every_epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="Epochs between checkpoints.")
    every_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="Also save after so many optimizer steps."
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Latest checkpoints to keep; the best one is always kept."
    )


class TrainingSpec(Model):
    """The training stage."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(description="Passes over the training data.")
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        128, description="Samples per optimizer step over all workers together."
    )
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        0, description="Determines initial weights, data order, augmentation and dropout."
    )
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="The update rule.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="The learning rate over time.")
    parallelism: Parallelism = Field(default_factory=Parallelism, description="How a step's work is divided.")
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec, description="When to save.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parallelism.data) || self.batchSize >= self.parallelism.data",
            lambda self: self.parallelism.data is None or self.batch_size >= self.parallelism.data,
            "training.batchSize counts all workers together: {batchSize} leaves some of the parallelism.data "
            "workers without a sample; make it at least parallelism.data",
            field="batchSize",
        ),
    )


class Resources(Model):
    """Requests and limits of a container, as in any pod; what is only in limits is also requested."""

    requests: dict[Annotated[str, StringConstraints(max_length=100)], Quantity] = Field(
        default_factory=dict, max_length=16, description="What the scheduler reserves."
    )
    limits: dict[Annotated[str, StringConstraints(max_length=100)], Quantity] = Field(
        default_factory=dict,
        max_length=16,
        description="What a container may use, GPUs among it (nvidia.com/gpu: 1).",
    )


class Head(Model):
    """The pod of Ray's head and the driver. It runs no training."""

    resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "500m", "memory": "2Gi"}, limits={"memory": "4Gi"}),
        description="Resources of the pod's Ray container.",
    )


class WorkerGroup(Model):
    """Worker pods that are alike."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_GROUP_NAME, pattern=DNS_1035)] = Field(
        description="Name of the group, unique in the job."
    )
    min: Annotated[int, Field(ge=0, le=MAX_WORKERS_PER_GROUP)] = Field(
        1, description="Pods without which training does not start. May be edited while running."
    )
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS_PER_GROUP)] = Field(
        1, description="Pods to run. May be edited while running."
    )
    slots: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Training processes per pod; for GPU pods the number of GPUs. They share its CPUs and GPUs evenly.",
    )
    resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "4Gi"}),
        description="Resources of each pod's Ray container.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.min <= self.max",
            lambda self: self.min <= self.max,
            "worker group {name}: min {min} is above max {max}",
            field="min",
        ),
    )


class SecretKey(Model):
    """One key of a Secret."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = Field(
        description="Key in it."
    )


class EnvVar(Model):
    """An environment variable of every Ray and driver container."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=ENV_NAME)] = Field(
        description="Name; RAY_AUTH_ and SCALING_ are the operator's."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(None, description="A literal value.")
    secret_key_ref: SecretKey | None = Field(None, description="A value from a Secret.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *_exactly_one("value", "secretKeyRef"),
            sentence="env {name} needs exactly one of value and secretKeyRef",
            field="",
        ),
        Rule(
            "!self.name.startsWith('RAY_AUTH_') && !self.name.startsWith('SCALING_')",
            lambda self: not self.name.startswith(("RAY_AUTH_", "SCALING_")),
            "env {name} is set by the operator; choose a name that starts with neither RAY_AUTH_ nor SCALING_",
            field="name",
        ),
    )


class Volume(Model):
    """A volume mounted into every Ray and driver container."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=DNS_1035)] = Field(
        description="Name of the volume, unique in the job."
    )
    mount_path: Annotated[str, StringConstraints(min_length=2, max_length=512, pattern=r"^/.+$")] = Field(
        description="Where it appears; /scaling, /tmp and /dev are the operator's."
    )
    read_only: bool = Field(False, description="Mount it read-only.")
    claim_name: ObjectName | None = Field(None, description="A PersistentVolumeClaim.")
    secret_name: ObjectName | None = Field(None, description="A Secret.")
    config_map_name: ObjectName | None = Field(None, description="A ConfigMap.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *_exactly_one("claimName", "secretName", "configMapName"),
            sentence="volume {name} needs exactly one of claimName, secretName and configMapName",
            field="",
        ),
        Rule(
            "!self.mountPath.matches('^/(scaling|tmp|dev)(/|$)')",
            lambda self: self.mount_path.split("/")[1] not in ("scaling", "tmp", "dev"),
            "volume {name}: mountPath {mountPath} lies in /scaling, /tmp or /dev, which the operator mounts",
            field="mountPath",
        ),
    )


class PodOverrides(Model):
    """The one free-form node: fields of a pod template (metadata and spec) laid over those of every pod."""

    model_config = ConfigDict(extra="allow", frozen=True)


def _slots(cluster: Any) -> int:
    return sum(group.max * group.slots for group in cluster.workers)


class Cluster(Model):
    """The Ray cluster that runs the job. A run on one machine ignores it."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="Image of all containers; the operator's default runtime image when absent."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="As in any pod.")
    image_pull_secrets: list[ObjectName] = Field(
        default_factory=list, max_length=16, description="Names of Secrets for private registries."
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the pods, for workload identity. Its token is not mounted. "
        "A rights-less one is made when absent.",
    )
    env: list[EnvVar] = Field(default_factory=list, max_length=100, description="Environment of all containers.")
    volumes: list[Volume] = Field(default_factory=list, max_length=32, description="Volumes of all containers.")
    head: Head = Field(default_factory=Head, description="The pod of Ray's head and the driver.")
    workers: list[WorkerGroup] = Field(
        default_factory=lambda: [WorkerGroup(name="workers", min=2, max=2)],
        min_length=1,
        max_length=16,
        description="Groups of worker pods.",
    )
    pod_overrides: PodOverrides | None = Field(
        None,
        description="Pod template fields laid over every pod: metadata.labels, metadata.annotations, and of spec "
        "nodeSelector, tolerations, affinity, topologySpreadConstraints, priorityClassName, runtimeClassName, "
        "schedulerName, dnsPolicy, dnsConfig, hostAliases and terminationGracePeriodSeconds.",
    )


class RunPolicy(Model):
    """How the job runs, retries and ends. May be edited while running."""

    suspend: bool = Field(
        False, description="True: save a checkpoint and release all pods. False again: go on from there."
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        3, description="New attempts after failures before the job fails. Suspending does not count."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None, description="Time the job may be active, over all attempts; suspension pauses the clock."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="Delete the finished job after so long; storage is never touched."
    )
    clean_pod_policy: Literal["All", "Running", "None"] = Field(
        "All", description="Which pods to delete when the job ends: all, only those still running, or none."
    )


def _same(*paths: str) -> str:
    """CEL: each of these fields, optional or not, is what it was."""
    return " && ".join(f"self.{path} == oldSelf.{path}" for path in paths)


# What an edit may change while the job runs is min and max of a worker group, and runPolicy. Anything else
# needs suspend, before or in the same request, so that no running pod ever disagrees with its spec.
FROZEN_WHILE_RUNNING = (
    "oldSelf.runPolicy.suspend || self.runPolicy.suspend || ("
    + _same("model", "dataset", "training", "?storage", "?cluster.?image", "?cluster.?imagePullPolicy")
    + " && "
    + _same("?cluster.?imagePullSecrets", "?cluster.?serviceAccountName", "?cluster.?env", "?cluster.?volumes")
    + " && "
    + _same("?cluster.?head")
    + " && self.cluster.workers.map(w, w.name) == oldSelf.cluster.workers.map(w, w.name)"
    + " && self.cluster.workers.map(w, w.slots) == oldSelf.cluster.workers.map(w, w.slots)"
    + " && self.cluster.workers.map(w, w.resources) == oldSelf.cluster.workers.map(w, w.resources))"
)
FROZEN_SENTENCE = (
    "a running job takes edits of cluster.workers min and max and of runPolicy only; "
    "set runPolicy.suspend to true (in the same request is enough) to change anything else"
)


class ScalingJobSpec(Model):
    """What to train, on what data, how, and where."""

    storage: Storage | None = Field(
        None, description="Where results go. Required on a cluster; a run on one machine has a folder."
    )
    model: ModelSpec = Field(description="The network.")
    dataset: DatasetSpec = Field(description="The data.")
    training: TrainingSpec = Field(description="The training stage.")
    cluster: Cluster = Field(default_factory=Cluster, description="The Ray cluster.")
    run_policy: RunPolicy = Field(default_factory=RunPolicy, description="How the job runs, retries and ends.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.storage)",
            lambda self: self.storage is not None,
            "spec.storage is missing: name a claimName that all pods can mount, or an object store's uri",
            field="storage",
            on_cluster_only=True,
        ),
        Rule(
            "!has(self.training.parallelism.data) || self.training.parallelism.data <= "
            "self.cluster.workers.map(w, w.max * w.slots).sum()",
            lambda self: (
                self.training.parallelism.data is None or self.training.parallelism.data <= _slots(self.cluster)
            ),
            "training.parallelism.data is above the training processes that cluster.workers offer "
            "(max times slots, over all groups); lower it or raise max",
            field="training.parallelism.data",
            on_cluster_only=True,
        ),
    )


class ObjectMeta(Model):
    """The part of metadata that is checked; everything else passes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_JOB_NAME, pattern=DNS_1035)]
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
