"""Manifests that must be refused, and some that must not: one table for both sides.

The unit tests send each case through `scaling_api.validation`, the cluster tests through a real API server;
verdict and blamed field must be the same. ``fragment`` is part of the offline sentence; for rules and
patterns the server says it in the same words, otherwise it has its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
Change = Callable[[Manifest], None]

ABSENT = object()


def minimal() -> Manifest:
    """The shortest manifest that a cluster takes."""
    return {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": "mnist"},
        "spec": {
            "storage": {"claimName": "runs"},
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits"},
            "training": {"epochs": 2},
        },
    }


def put(path: str, value: Any) -> Change:
    """Set the field at a dotted path, making the sections above it; ABSENT removes it."""

    def change(manifest: Manifest) -> None:
        *above, name = path.split(".")
        section = manifest
        for part in above:
            section = section.setdefault(part, {})
        if value is ABSENT:
            del section[name]
        else:
            section[name] = copy.deepcopy(value)

    return change


@dataclass(frozen=True)
class Case:
    """A manifest, described by what is different from the minimal one, and what is said about it."""

    id: str
    change: Change
    path: str
    fragment: str
    # Whether the API server says it in the same words: rules and patterns, whose sentences it carries.
    same_words: bool = False

    def manifest(self) -> Manifest:
        manifest = minimal()
        self.change(manifest)
        return manifest


@dataclass(frozen=True)
class Edit:
    """A change of a job that exists; refused when ``fragment`` is given."""

    id: str
    before: Change
    after: Change
    fragment: str | None

    def manifests(self) -> tuple[Manifest, Manifest]:
        old, new = minimal(), minimal()
        self.before(old)
        self.after(new)
        return old, new


def cluster(**fields: Any) -> Change:
    return put("spec.cluster", fields)


def group(**fields: Any) -> Change:
    return cluster(workers=[{"name": "gpu", **fields}])


def env(**fields: Any) -> Change:
    return cluster(env=[{"name": "TOKEN", **fields}])


def volume(**fields: Any) -> Change:
    return cluster(volumes=[{"name": "data", "mountPath": "/data", **fields}])


def resources(**fields: Any) -> Change:
    return put("spec.cluster.head.resources", fields)


def limit(value: Any) -> Change:
    return resources(limits={"memory": value})


def training(**fields: Any) -> Change:
    return put("spec.training", {"epochs": 2, **fields})


def both(*changes: Change) -> Change:
    def change(manifest: Manifest) -> None:
        for one in changes:
            one(manifest)

    return change


_CLUSTER = "spec.cluster"
_LIMIT = f"{_CLUSTER}.head.resources.limits.memory"

# Rules over several fields, and patterns: the sentences come from the models and are the same on both sides.
RULES = (
    Case("storage is missing", put("spec.storage", ABSENT), "spec.storage", "storage is missing", True),
    Case(
        "storage has both claimName and uri",
        put("spec.storage", {"claimName": "runs", "uri": "s3://bucket"}),
        "spec.storage",
        "exactly one of claimName (a PersistentVolumeClaim) and uri",
        True,
    ),
    Case("storage has neither", put("spec.storage", {}), "spec.storage", "exactly one of claimName", True),
    Case(
        "secretRef goes with a claim",
        put("spec.storage.secretRef", {"name": "s3"}),
        "spec.storage.secretRef",
        "secretRef s3 holds an object store's credentials: it goes with uri",
        True,
    ),
    Case(
        "uri of an unknown store",
        put("spec.storage", {"uri": "ftp://host/runs"}),
        "spec.storage.uri",
        '"ftp://host/runs" is not an object store\'s address: write s3://',
        True,
    ),
    Case(
        "uri with a password",
        put("spec.storage", {"uri": "s3://me:secret@bucket"}),
        "spec.storage.uri",
        "no password",
        True,
    ),
    Case(
        "resumeFrom leaves the storage",
        put("spec.storage.resumeFrom", "../other"),
        "spec.storage.resumeFrom",
        '"../other" is not a folder below the storage root',
        True,
    ),
    Case(
        "resumeFrom is absolute",
        put("spec.storage.resumeFrom", "/runs/old"),
        "spec.storage.resumeFrom",
        "without a leading /",
        True,
    ),
    Case(
        "width below an eighth",
        put("spec.model.width", 0.1),
        "spec.model.width",
        "width 0.1 leaves too few channels",
        True,
    ),
    Case(
        "momentum without sgd",
        training(optimizer={"name": "adamw", "momentum": 0.9}),
        "spec.training.optimizer.momentum",
        "momentum 0.9 belongs to optimizer sgd, not to adamw",
        True,
    ),
    Case(
        "one-cycle without warm-up",
        training(schedule={"name": "one-cycle"}),
        "spec.training.schedule.warmupFraction",
        "warmupFraction must be above 0 (0.3 is usual), it is 0",
        True,
    ),
    Case(
        "batch smaller than the number of workers",
        training(batchSize=1, parallelism={"data": 2}),
        "spec.training.batchSize",
        "1 leaves some of the 2 workers (parallelism.data) without a sample; make it at least 2",
        True,
    ),
    Case(
        "more processes than slots",
        both(training(parallelism={"data": 9}), group(max=4, slots=2)),
        "spec.training.parallelism.data",
        "parallelism.data 9 is above the number of training processes",
        True,
    ),
    Case(
        "more processes than the default cluster has",
        training(parallelism={"data": 3}),
        "spec.training.parallelism.data",
        "parallelism.data 3 is above",
        True,
    ),
    Case(
        "image with a blank",
        cluster(image="my image"),
        f"{_CLUSTER}.image",
        '"my image" is not an image reference',
        True,
    ),
    Case(
        "claim name in capitals",
        put("spec.storage.claimName", "Runs"),
        "spec.storage.claimName",
        '"Runs" is not the name of an object: use lower-case letters',
        True,
    ),
    Case("min above max", group(min=3, max=2), f"{_CLUSTER}.workers[0].min", "group gpu: min 3 is above max 2", True),
    Case(
        "group called head",
        cluster(workers=[{"name": "head"}]),
        f"{_CLUSTER}.workers[0].name",
        "cannot be called head",
        True,
    ),
    Case(
        "group name with a dash",
        cluster(workers=[{"name": "gpu-a"}]),
        f"{_CLUSTER}.workers[0].name",
        '"gpu-a" is not a group name: use lower-case letters and digits only',
        True,
    ),
    Case(
        "unit of a quantity is unknown",
        limit("4 GB"),
        _LIMIT,
        '"4 GB" is not a quantity: write a number with or without a unit, such as 500m',
        True,
    ),
    Case("negative quantity", limit(-1), _LIMIT, '"-1" is not a quantity', True),
    Case(
        "resource without its domain",
        resources(limits={"gpu": 1}),
        f"{_CLUSTER}.head.resources",
        "a full name such as nvidia.com/gpu",
        True,
    ),
    Case(
        "request above limit",
        resources(requests={"memory": "2Gi"}, limits={"memory": "1500M"}),
        f"{_CLUSTER}.head.resources.requests",
        "a request is above the limit",
        True,
    ),
    Case(
        "request above limit, as whole numbers",
        resources(requests={"cpu": 3}, limits={"cpu": 2}),
        f"{_CLUSTER}.head.resources.requests",
        "a request is above the limit",
        True,
    ),
    Case("env without a value", env(), f"{_CLUSTER}.env[0]", "variable TOKEN needs exactly one of value", True),
    Case(
        "env with two values",
        env(value="x", secretKeyRef={"name": "hub", "key": "token"}),
        f"{_CLUSTER}.env[0]",
        "variable TOKEN needs exactly one of value and secretKeyRef",
        True,
    ),
    Case(
        "env of the operator",
        cluster(env=[{"name": "SCALING_ATTEMPT", "value": "7"}]),
        f"{_CLUSTER}.env[0].name",
        "variable SCALING_ATTEMPT is set by the operator",
        True,
    ),
    Case(
        "env of Ray's address",
        cluster(env=[{"name": "RAY_ADDRESS", "value": "1.2.3.4:6379"}]),
        f"{_CLUSTER}.env[0].name",
        "variable RAY_ADDRESS is set by the operator; choose another name",
        True,
    ),
    Case(
        "env of Ray's authentication",
        cluster(env=[{"name": "RAY_AUTH_TOKEN", "value": "x"}]),
        f"{_CLUSTER}.env[0].name",
        "variable RAY_AUTH_TOKEN is set by the operator",
        True,
    ),
    Case(
        "env name with a dash",
        cluster(env=[{"name": "MY-TOKEN", "value": "x"}]),
        f"{_CLUSTER}.env[0].name",
        '"MY-TOKEN" is not the name of a variable',
        True,
    ),
    Case(
        "secret key with a slash",
        env(secretKeyRef={"name": "hub", "key": "a/b"}),
        f"{_CLUSTER}.env[0].secretKeyRef.key",
        '"a/b" is not a key of a Secret',
        True,
    ),
    Case(
        "volume without a source",
        volume(),
        f"{_CLUSTER}.volumes[0]",
        "volume data needs exactly one of claimName, secretName and configMapName",
        True,
    ),
    Case(
        "volume with two sources",
        volume(claimName="a", secretName="b"),
        f"{_CLUSTER}.volumes[0]",
        "volume data needs exactly one of",
        True,
    ),
    Case(
        "volume over the operator's own",
        volume(claimName="a", mountPath="/tmp/data"),
        f"{_CLUSTER}.volumes[0].mountPath",
        "mountPath /tmp/data is not free: the operator mounts /scaling, /tmp, /dev",
        True,
    ),
    Case(
        "volume over the home folder",
        volume(claimName="a", mountPath="/home/scaling"),
        f"{_CLUSTER}.volumes[0].mountPath",
        "mountPath /home/scaling is not free",
        True,
    ),
    Case(
        "mount path climbs",
        volume(claimName="a", mountPath="/data/../tmp"),
        f"{_CLUSTER}.volumes[0].mountPath",
        '"/data/../tmp" is not an absolute path',
        True,
    ),
    Case(
        "volume name with a dot",
        cluster(volumes=[{"name": "my.data", "mountPath": "/data", "claimName": "a"}]),
        f"{_CLUSTER}.volumes[0].name",
        '"my.data" is not a volume name',
        True,
    ),
    Case(
        "two volumes at one path",
        cluster(
            volumes=[
                {"name": "a", "mountPath": "/data", "claimName": "a"},
                {"name": "b", "mountPath": "/data", "claimName": "b"},
            ]
        ),
        f"{_CLUSTER}.volumes",
        "two volumes have the same mountPath",
        True,
    ),
    Case("job name begins with a digit", put("metadata.name", "1st"), "metadata.name", '"1st" is not a job name', True),
    Case("job name with a dot", put("metadata.name", "a.b"), "metadata.name", '"a.b" is not a job name', True),
    Case("job name in capitals", put("metadata.name", "Mnist"), "metadata.name", '"Mnist" is not a job name', True),
)

# What JSON Schema says: each kind of bound and of type. The server has words of its own for these.
BOUNDS = (
    Case("job name too long", put("metadata.name", "a" * 39), "metadata.name", "at most 38 characters, not 39"),
    Case("required field is missing", put("spec.training", {}), "spec.training.epochs", "is required: passes over"),
    Case("required field is null", put("spec.training.epochs", None), "spec.training.epochs", "is required"),
    Case("required section is missing", put("spec.model", ABSENT), "spec.model", "is required: the network"),
    Case("required section is null", put("spec.training", None), "spec.training", "is required"),
    Case("spec is missing", put("spec", ABSENT), "spec", "is required"),
    Case("below the minimum", put("spec.training.epochs", 0), "spec.training.epochs", "must be at least 1, not 0"),
    Case(
        "at the excluded minimum",
        training(optimizer={"learningRate": 0}),
        "spec.training.optimizer.learningRate",
        "must be above 0, not 0",
    ),
    Case("no width at all", put("spec.model.width", 0), "spec.model.width", "must be above 0, not 0"),
    Case("above the maximum", put("spec.training.epochs", 100_001), "spec.training.epochs", "must be at most 100000"),
    Case(
        "at the excluded maximum",
        training(optimizer={"name": "sgd", "momentum": 1}),
        "spec.training.optimizer.momentum",
        "must be below 1, not 1",
    ),
    Case("fraction above its maximum", put("spec.model.width", 8.5), "spec.model.width", "must be at most 8, not 8.5"),
    Case(
        "whole number above a fractional maximum",
        put("spec.dataset.augmentation", {"shift": 1}),
        "spec.dataset.augmentation.shift",
        "must be at most 0.5, not 1",
    ),
    Case(
        "text too long",
        put("spec.storage", {"uri": "s3://" + "a" * 1020}),
        "spec.storage.uri",
        "must have at most 1024 characters, not 1025",
    ),
    Case("text too short", put("spec.storage.claimName", ""), "spec.storage.claimName", "at least 1 character, not 0"),
    Case("quantity too long", limit("1" * 21), _LIMIT, "must have at most 20 characters, not 21"),
    Case(
        "too many items",
        cluster(env=[{"name": f"V{number}", "value": ""} for number in range(101)]),
        f"{_CLUSTER}.env",
        "must have at most 100 items, not 101",
    ),
    Case("too few items", cluster(workers=[]), f"{_CLUSTER}.workers", "must have at least 1 item, not 0"),
    Case(
        "too many properties",
        resources(limits={f"example.com/r{number}": 1 for number in range(17)}),
        f"{_CLUSTER}.head.resources.limits",
        "must have at most 16 items, not 17",
    ),
    Case("unknown choice", put("spec.model.name", "resnet"), "spec.model.name", "allowed: small-cnn"),
    Case(
        "unknown choice of several",
        training(optimizer={"name": "lion"}),
        "spec.training.optimizer.name",
        '"lion" is not supported; allowed: sgd, adam, adamw',
    ),
    Case("choice of another type", put("spec.model.name", 3), "spec.model.name", "3 is not supported"),
    Case("choice in another case", put("spec.model.name", "Small-CNN"), "spec.model.name", "allowed: small-cnn"),
    Case(
        "text for a whole number",
        put("spec.training.epochs", "5"),
        "spec.training.epochs",
        'must be a whole number, not the text "5"; write it without quotes',
    ),
    Case("truth for a whole number", put("spec.training.epochs", True), "spec.training.epochs", "not true"),
    Case("fraction for a whole number", put("spec.training.epochs", 2.5), "spec.training.epochs", "not the number 2.5"),
    Case("text for a number", put("spec.model.width", "1.5"), "spec.model.width", "write it without quotes"),
    Case("truth for a number", put("spec.model.width", True), "spec.model.width", "must be a number, not true"),
    Case("text for a truth", put("spec.runPolicy.suspend", "true"), "spec.runPolicy.suspend", "must be true or false"),
    Case("number for a truth", put("spec.runPolicy.suspend", 1), "spec.runPolicy.suspend", "must be true or false"),
    Case(
        "truth for a text",
        env(value=True),
        f"{_CLUSTER}.env[0].value",
        'must be text, not true; write "true", in quotes',
    ),
    Case("number for a text", env(value=5), f"{_CLUSTER}.env[0].value", 'write "5", in quotes'),
    Case("null in a list of texts", cluster(imagePullSecrets=[None]), f"{_CLUSTER}.imagePullSecrets[0]", "empty"),
    Case("fraction for a quantity", limit(1.5), _LIMIT, 'write "1.5", in quotes'),
    Case("truth for a quantity", limit(True), _LIMIT, "not true"),
    Case("list for a section", put("spec.training", [1]), "spec.training", "must be a mapping of fields, not a list"),
    Case("text for a section", put("spec.model", "small-cnn"), "spec.model", 'not the text "small-cnn"'),
    Case("text for a list", cluster(workers="gpu"), f"{_CLUSTER}.workers", 'must be a list, not the text "gpu"'),
    Case("null in a list", cluster(workers=[None]), f"{_CLUSTER}.workers[0]", "not empty (null)"),
    Case("list for a map", resources(limits=[1]), f"{_CLUSTER}.head.resources.limits", "not a list"),
    Case("text for free-form", cluster(podOverrides="x"), f"{_CLUSTER}.podOverrides", "must be a mapping of fields"),
    Case(
        "two groups of one name",
        cluster(workers=[{"name": "gpu"}, {"name": "cpu"}, {"name": "gpu"}]),
        f"{_CLUSTER}.workers[2]",
        'name "gpu" is used by an earlier item',
    ),
    Case(
        "two variables of one name",
        cluster(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        f"{_CLUSTER}.env[1]",
        'name "A" is used by an earlier item',
    ),
    Case(
        "two volumes of one name",
        cluster(volumes=[{"name": "a", "mountPath": f"/{path}", "claimName": "a"} for path in "xy"]),
        f"{_CLUSTER}.volumes[1]",
        'name "a" is used by an earlier item',
    ),
    Case(
        "misspelt field",
        put("spec.training.epoch", 5),
        "spec.training.epoch",
        "unknown field; did you mean epochs?",
    ),
    Case("misspelt required field", put("spec.training", {"epoch": 5}), "spec.training.epoch", "did you mean epochs?"),
    Case(
        "field in snake case",
        put("spec.training.batch_size", 5),
        "spec.training.batch_size",
        "did you mean batchSize?",
    ),
    Case(
        "field in the wrong section",
        put("spec.training.learningRate", 0.1),
        "spec.training.learningRate",
        "did you mean spec.training.optimizer.learningRate?",
    ),
    Case("unknown field in a list", group(replicas=5), f"{_CLUSTER}.workers[0].replicas", "known here: name, min, max"),
    Case("unknown section", put("spec.search", {}), "spec.search", "unknown field; known here: storage, model"),
    Case("unknown field at the root", put("specs", {}), "specs", "did you mean spec?"),
    Case("unknown field in metadata", put("metadata.label", {}), "metadata.label", "did you mean labels?"),
    Case("label that is a number", put("metadata.labels", {"tier": 1}), "metadata.labels", 'write "1", in quotes'),
    Case("label with a blank", put("metadata.labels", {"a": "b c"}), "metadata.labels", "not the value of a label"),
    Case("label key with a blank", put("metadata.labels", {"a b": "c"}), "metadata.labels", '"a b" is not a key'),
)

REFUSED = (*RULES, *BOUNDS)

ACCEPTED = (
    ("the minimal manifest", both()),
    ("storage in an object store", put("spec.storage", {"uri": "s3://bucket/a/b", "secretRef": {"name": "s3"}})),
    ("an Azure container", put("spec.storage", {"uri": "abfs://runs@account.dfs.core.windows.net/a"})),
    ("an earlier run", put("spec.storage.resumeFrom", "team/mnist-0b5c/.old/")),
    ("the longest name", put("metadata.name", "a" * 38)),
    ("labels and annotations", put("metadata", {"name": "a", "labels": {"x.io/a": ""}, "annotations": {"b": "c d"}})),
    ("whole numbers written as fractions", put("spec.training.epochs", 5.0)),
    ("whole numbers for fractions", both(put("spec.model.width", 2), training(optimizer={"learningRate": 1}))),
    ("null for a field with a default", put("spec.training.seed", None)),
    ("null for an optional field", put("spec.storage.uri", None)),
    ("null for a section with defaults", put("spec.cluster", None)),
    ("null for a list with a default", cluster(workers=None)),
    ("null for a resource", limit(None)),
    ("quantities as numbers", resources(requests={"cpu": 1, "memory": 1073741824}, limits={"nvidia.com/gpu": 1})),
    ("quantities with units", resources(requests={"cpu": "1500m", "memory": "1.5Gi"}, limits={"memory": "2G"})),
    ("a request equal to its limit", resources(requests={"memory": "1Gi"}, limits={"memory": "1024Mi"})),
    ("huge pages", resources(limits={"hugepages-2Mi": "64Mi", "ephemeral-storage": "10Gi"})),
    ("sgd with momentum", training(optimizer={"name": "sgd", "momentum": 0.9})),
    ("one-cycle with warm-up", training(schedule={"name": "one-cycle", "warmupFraction": 0.3})),
    ("as many processes as slots", both(training(parallelism={"data": 8}), group(max=4, slots=2))),
    ("a group without a minimum", group(min=0, max=4)),
    ("an empty value", env(value="")),
    ("a value from a Secret", env(secretKeyRef={"name": "hub", "key": "token"})),
    ("a volume in a hidden folder", volume(secretName="aws", mountPath="/home/me/.aws", readOnly=True)),
    ("a volume in the home folder", volume(secretName="aws", mountPath="/home/scaling/.aws")),
    ("a variable of Ray that is the user's", cluster(env=[{"name": "RAY_BACKEND_LOG_LEVEL", "value": "debug"}])),
    ("podOverrides of any shape", cluster(podOverrides={"spec": {"nodeSelector": {"a": "b"}}, "x": [None, 1.5]})),
    ("every policy", put("spec.runPolicy", {"suspend": True, "backoffLimit": 0, "cleanPodPolicy": "None"})),
)

_FROZEN = "a running job takes edits of cluster.workers min and max and of runPolicy only"

EDITS = (
    Edit("nothing", both(), both(), None),
    Edit("more workers", group(min=1, max=2), group(min=2, max=4), None),
    Edit("another policy", both(), put("spec.runPolicy", {"backoffLimit": 7, "activeDeadlineSeconds": 60}), None),
    Edit("suspend", both(), put("spec.runPolicy.suspend", True), None),
    Edit("resume", put("spec.runPolicy.suspend", True), both(), None),
    Edit("anything while suspending", both(), both(training(epochs=9), put("spec.runPolicy.suspend", True)), None),
    Edit("anything while resuming", put("spec.runPolicy.suspend", True), training(epochs=9), None),
    Edit(
        "the order of variables",
        cluster(env=[{"name": name, "value": "1"} for name in "ab"]),
        cluster(env=[{"name": name, "value": "1"} for name in "ba"]),
        None,
    ),
    Edit("a label", both(), put("metadata.labels", {"a": "b"}), None),
    Edit("a default, written out", both(), both(put("spec.training.seed", 0), put("spec.model.width", 1)), None),
    Edit("a whole number written as a fraction", put("spec.model.width", 1), put("spec.model.width", 1.0), None),
    Edit("null for what is absent", limit(1), resources(limits={"memory": 1, "cpu": None}), None),
    Edit("an empty list for none", both(), cluster(env=[]), _FROZEN),
    Edit("another spelling of a quantity", limit(1), limit("1"), _FROZEN),
    Edit(
        "the order of pull secrets", cluster(imagePullSecrets=["a", "b"]), cluster(imagePullSecrets=["b", "a"]), _FROZEN
    ),
    Edit(
        "the order of groups",
        cluster(workers=[{"name": n} for n in "ab"]),
        cluster(workers=[{"name": n} for n in "ba"]),
        None,
    ),
    Edit("epochs", both(), training(epochs=9), _FROZEN),
    Edit("model", both(), put("spec.model.width", 0.5), _FROZEN),
    Edit("dataset", both(), put("spec.dataset.name", "mnist-5k"), _FROZEN),
    Edit("storage", both(), put("spec.storage.claimName", "other"), _FROZEN),
    Edit("resumeFrom is new", both(), put("spec.storage.resumeFrom", "old"), _FROZEN),
    Edit("image is new", both(), cluster(image="a:1"), _FROZEN),
    Edit("image is gone", cluster(image="a:1"), both(), _FROZEN),
    Edit("image is another", cluster(image="a:1"), cluster(image="a:2"), _FROZEN),
    Edit("pull policy", both(), cluster(imagePullPolicy="Always"), _FROZEN),
    Edit("pull secrets", both(), cluster(imagePullSecrets=["a"]), _FROZEN),
    Edit("service account", both(), cluster(serviceAccountName="a"), _FROZEN),
    Edit("a variable", env(value="1"), env(value="2"), _FROZEN),
    Edit("a volume", both(), volume(claimName="a"), _FROZEN),
    Edit("the head's resources", both(), limit("8Gi"), _FROZEN),
    Edit("podOverrides", both(), cluster(podOverrides={"spec": {"priorityClassName": "high"}}), _FROZEN),
    Edit("a worker's slots", group(slots=1), group(slots=2), _FROZEN),
    Edit("a worker's resources", group(), group(resources={"limits": {"cpu": 1}}), _FROZEN),
    Edit("another name of a group", group(), cluster(workers=[{"name": "cpu"}]), _FROZEN),
    Edit("one group more", group(), cluster(workers=[{"name": "gpu"}, {"name": "cpu"}]), _FROZEN),
    Edit("one group less", cluster(workers=[{"name": "gpu"}, {"name": "cpu"}]), group(), _FROZEN),
)
