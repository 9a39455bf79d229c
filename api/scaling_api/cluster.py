"""The section that says where a job runs: the Ray cluster and its pods. A run on one machine ignores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from scaling_api.base import Model, Rule
from scaling_api.constraints import Editable, KeyedBy, Pattern
from scaling_api.driver import DRIVER_REQUESTS, ENV_RAY_ADDRESS, HOME
from scaling_api.quantities import parse_quantity
from scaling_api.scalars import (
    GROUP_NAME,
    MAX_GROUP_NAME,
    MAX_WORKERS_PER_GROUP,
    VOLUME_NAME,
    ObjectName,
    QuantityText,
)
from scaling_api.status import MAX_SLOTS

_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_STANDARD_CEL = ", ".join(f"'{name}'" for name in _STANDARD_RESOURCES)
# What an attempt's Secret can hold of the variables, counted as often as they stand in it: in the spec, for two
# containers of the head and for each worker group. A Secret holds 1 MiB; the rest is for all else.
_MAX_ENV_IN_SECRET = 960 << 10
# What the operator tells Ray about the pod; an other value would make it another pod.
_RESERVED_ENV = (ENV_RAY_ADDRESS, "RAY_PORT", "RAY_NODE_TYPE_NAME", "RAY_CLOUD_INSTANCE_ID")
_RESERVED_ENV_PREFIXES = ("RAY_AUTH_", "RAY_CLUSTER_", "SCALING_")
_IMAGE = Pattern(r"[a-zA-Z0-9][-a-zA-Z0-9_.:/@]*", "an image reference, such as registry.example.com/team/runtime:1.2")
_ENV_NAME = Pattern(
    r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable: use letters, digits and underscores, not beginning with a digit"
)
_SECRET_KEY = Pattern(r"[-._a-zA-Z0-9]+", "a key of a Secret: use letters, digits, dashes, underscores and dots")
# A part may begin with one dot (.aws), but "." and ".." would hide where the mount really lies.
_MOUNT_PATH = Pattern(
    r"(/\.?[^/:.][^/:]*)+", "an absolute path: begin with /, without .., a colon or a slash at the end"
)


def exactly_one(*names: str) -> tuple[str, Callable[[Any], bool]]:
    """CEL and Python for "exactly one of these optional fields is set" (camelCase names)."""
    cel = "[" + ", ".join(f"has(self.{name})" for name in names) + "].filter(x, x).size() == 1"

    def holds(model: Any) -> bool:
        dumped = model.to_json_dict()
        return sum(name in dumped for name in names) == 1

    return cel, holds


def _requests_within_limits(resources: Any) -> bool:
    return all(
        parse_quantity(requested) <= parse_quantity(resources.limits[name])
        for name, requested in resources.requests.items()
        if name in resources.limits
    )


def _indivisible_are_equal(resources: Any) -> bool:
    return all(
        name in _STANDARD_RESOURCES
        or (name in resources.limits and parse_quantity(requested) == parse_quantity(resources.limits[name]))
        for name, requested in resources.requests.items()
    )


def _driver_fits(head: Any) -> bool:
    limits = head.resources.limits
    return all(
        parse_quantity(limits[name]) >= parse_quantity(requested)
        for name, requested in DRIVER_REQUESTS.items()
        if name in limits
    )


def _limit_at_least_cel(name: str, amount: str) -> str:
    limit = f"string(self.resources.limits['{name}'])"
    return (
        f"(!('{name}' in self.resources.limits) || !isQuantity({limit}) || "
        f"quantity({limit}).compareTo(quantity('{amount}')) >= 0)"
    )


def _resource_names_known(resources: Any) -> bool:
    return all(
        name in _STANDARD_RESOURCES or "/" in name or name.startswith("hugepages-")
        for name in (*resources.requests, *resources.limits)
    )


def _names_known_cel(field: str) -> str:
    condition = f"k in [{_STANDARD_CEL}] || k.contains('/') || k.startsWith('hugepages-')"
    return f"(!has(self.{field}) || self.{field}.all(k, {condition}))"


class Resources(Model):
    """Requests and limits of a container, as in any pod; what is only in limits is also requested."""

    requests: dict[str, QuantityText] = Field(
        default_factory=dict, max_length=16, description="What the scheduler reserves."
    )
    limits: dict[str, QuantityText] = Field(
        default_factory=dict,
        max_length=16,
        description="What a container may use, GPUs among it (nvidia.com/gpu: 1).",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{_names_known_cel('requests')} && {_names_known_cel('limits')}",
            _resource_names_known,
            "a resource has an unknown name; use cpu, memory, ephemeral-storage, hugepages-<size> or a full name "
            "such as nvidia.com/gpu",
            field="",
        ),
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
            "!isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) || "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            _requests_within_limits,
            "a request is above the limit of the same resource; lower it or raise the limit",
            field="requests",
        ),
        Rule(
            f"!has(self.requests) || self.requests.all(k, k in [{_STANDARD_CEL}] || (has(self.limits) && "
            "k in self.limits && (!isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) || "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0)))",
            _indivisible_are_equal,
            "of all but cpu, memory and ephemeral-storage a container gets what it requests and no more: write it in "
            "limits alone, or the same number in both",
            field="requests",
        ),
    )


class Head(Model):
    """The pod of Ray's head and the driver. It runs no training."""

    resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "500m", "memory": "2Gi"}, limits={"memory": "4Gi"}),
        description="Resources of the pod's Ray container.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.resources.limits) || ("
            + " && ".join(_limit_at_least_cel(name, amount) for name, amount in DRIVER_REQUESTS.items())
            + ")",
            _driver_fits,
            "a limit is below what the driver, which runs beside Ray in the head's pod, requests: "
            + " and ".join(f"{amount} of {name}" for name, amount in DRIVER_REQUESTS.items())
            + "; raise it",
            field="resources.limits",
        ),
    )


class WorkerGroup(Model):
    """Worker pods that are alike."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_GROUP_NAME), GROUP_NAME] = Field(
        description="Name of the group, unique in the job."
    )
    min: Annotated[int, Field(ge=0, le=MAX_WORKERS_PER_GROUP), Editable()] = Field(
        1, description="Pods without which training does not start. May be edited while running."
    )
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS_PER_GROUP), Editable()] = Field(
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
        Rule(
            "self.name != 'head'",
            lambda self: self.name != "head",
            "a worker group cannot be called head, as the head pod is; choose another name",
            field="name",
        ),
    )


class SecretKey(Model):
    """One key of a Secret."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, StringConstraints(min_length=1, max_length=253), _SECRET_KEY] = Field(description="Key in it.")


class EnvVar(Model):
    """An environment variable of every Ray and driver container."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128), _ENV_NAME] = Field(
        description=f"Name, unique in the job. The operator's own: {', '.join(_RESERVED_ENV)}, and what begins with "
        f"{', '.join(_RESERVED_ENV_PREFIXES)}."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(None, description="A literal value.")
    secret_key_ref: SecretKey | None = Field(None, description="A value from a Secret.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *exactly_one("value", "secretKeyRef"),
            sentence="variable {name} needs exactly one of value and secretKeyRef",
            field="",
        ),
        Rule(
            f"!(self.name in {list(_RESERVED_ENV)})"
            + "".join(f" && !self.name.startsWith('{prefix}')" for prefix in _RESERVED_ENV_PREFIXES),
            lambda self: self.name not in _RESERVED_ENV and not self.name.startswith(_RESERVED_ENV_PREFIXES),
            "variable {name} is set by the operator; choose another name",
            field="name",
        ),
    )


class Volume(Model):
    """A volume mounted into every Ray and driver container."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=50), VOLUME_NAME] = Field(
        description="Name of the volume, unique in the job."
    )
    mount_path: Annotated[str, StringConstraints(min_length=2, max_length=512), _MOUNT_PATH] = Field(
        description=f"Where it appears, unique in the job; /scaling, /tmp, /dev and {HOME} are the operator's."
    )
    read_only: bool = Field(False, description="Mount it read-only.")
    claim_name: ObjectName | None = Field(None, description="A PersistentVolumeClaim.")
    secret_name: ObjectName | None = Field(None, description="A Secret.")
    config_map_name: ObjectName | None = Field(None, description="A ConfigMap.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            *exactly_one("claimName", "secretName", "configMapName"),
            sentence="volume {name} needs exactly one of claimName, secretName and configMapName",
            field="",
        ),
        Rule(
            f"!self.mountPath.matches('^/(scaling|tmp|dev)(/|$)') && self.mountPath != '{HOME}'",
            lambda self: self.mount_path.split("/")[1] not in ("scaling", "tmp", "dev") and self.mount_path != HOME,
            "volume {name}: mountPath {mountPath} is not free: the operator mounts /scaling, /tmp, /dev with all below "
            f"them and {HOME}; choose another",
            field="mountPath",
        ),
    )


class PodOverrides(Model):
    """The one free-form node: fields of a pod template (metadata and spec) laid over those of every pod."""

    model_config = ConfigDict(extra="allow", frozen=True)


def _env_fits(cluster: Any) -> bool:
    characters = sum(len(variable.name) + len(variable.value or "") for variable in cluster.env)
    return characters * (len(cluster.workers) + 3) <= _MAX_ENV_IN_SECRET


class Cluster(Model):
    """The Ray cluster that runs the job. A run on one machine ignores it."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512), _IMAGE] | None = Field(
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
    env: Annotated[list[EnvVar], KeyedBy("name")] = Field(
        default_factory=list, max_length=100, description="Environment of all containers."
    )
    volumes: Annotated[list[Volume], KeyedBy("name")] = Field(
        default_factory=list, max_length=32, description="Volumes of all containers."
    )
    head: Head = Field(default_factory=Head, description="The pod of Ray's head and the driver.")
    workers: Annotated[list[WorkerGroup], KeyedBy("name")] = Field(
        default_factory=lambda: [WorkerGroup(name="workers", min=2, max=2)],
        min_length=1,
        max_length=16,
        description="Groups of worker pods; two pods of one process each by default.",
    )
    pod_overrides: PodOverrides | None = Field(
        None,
        description="Pod template fields laid over every pod: metadata.labels, metadata.annotations, and of spec "
        "nodeSelector, tolerations, affinity, topologySpreadConstraints, priorityClassName, runtimeClassName, "
        "schedulerName, dnsPolicy, dnsConfig, hostAliases and terminationGracePeriodSeconds.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath == v.mountPath))",
            lambda self: len({volume.mount_path for volume in self.volumes}) == len(self.volumes),
            "two volumes have the same mountPath; give each its own",
            field="volumes",
        ),
        Rule(
            "!has(self.env) || self.env.map(e, size(e.name) + (has(e.value) ? size(e.value) : 0)).sum() * "
            f"(self.workers.size() + 3) <= {_MAX_ENV_IN_SECRET}",
            _env_fits,
            "the variables together are too long: they stand in one Secret for the head and for each worker group, and "
            "it holds 1 MiB; mount large values as files, from a Secret or a ConfigMap in cluster.volumes",
            field="env",
        ),
        Rule(
            f"self.workers.map(w, w.max).sum() <= {MAX_SLOTS}",
            lambda self: sum(group.max for group in self.workers) <= MAX_SLOTS,
            f"all worker groups together have more than {MAX_SLOTS} pods (the sum of max); lower max",
            field="workers",
        ),
    )
