"""What is refused and accepted in the section training.parallelism, and in the rules that take it with others."""

from __future__ import annotations

from tests.cases.case import Case, both, group, training

_PARALLELISM = "spec.training.parallelism"

RULES = (
    Case(
        "batch smaller than the number of workers",
        training(batchSize=1, parallelism={"data": 2}),
        "spec.training.batchSize",
        "1 leaves some of them without a sample; make it at least parallelism.data times fsdp",
        True,
    ),
    Case(
        "batch smaller than the shards",
        both(training(batchSize=3, parallelism={"fsdp": 4}), group(max=4)),
        "spec.training.batchSize",
        "3 leaves some of them without a sample",
        True,
    ),
    Case(
        "batch smaller than replicas times shards",
        both(training(batchSize=3, parallelism={"data": 2, "fsdp": 2}), group(max=4)),
        "spec.training.batchSize",
        "3 leaves some of them without a sample",
        True,
    ),
    Case(
        "more processes than slots",
        both(training(parallelism={"data": 9}), group(max=4, slots=2)),
        _PARALLELISM,
        "parallelism asks for more training processes (the product of its axes)",
        True,
    ),
    Case(
        "more processes than the default cluster has",
        training(parallelism={"data": 3}),
        _PARALLELISM,
        "lower an axis or raise max",
        True,
    ),
    Case(
        "a mesh larger than the slots",
        both(training(parallelism={"data": 2, "fsdp": 2, "tensor": 3}), group(max=11)),
        _PARALLELISM,
        "than cluster.workers offer",
        True,
    ),
    Case(
        "a model group larger than the slots",
        both(training(parallelism={"tensor": 4}), group(max=3)),
        _PARALLELISM,
        "than cluster.workers offer",
        True,
    ),
    Case(
        "auto beside a number of replicas",
        training(parallelism={"auto": True, "data": 1}),
        f"{_PARALLELISM}.auto",
        "auto chooses the axes: leave out data, fsdp, tensor and pipeline, or auto",
        True,
    ),
    Case(
        "auto beside a tensor axis",
        both(training(parallelism={"auto": True, "tensor": 2}), group(max=2)),
        f"{_PARALLELISM}.auto",
        "auto chooses the axes",
        True,
    ),
    Case(
        "auto beside stages",
        both(training(parallelism={"auto": True, "pipeline": 2}), group(max=2)),
        f"{_PARALLELISM}.auto",
        "auto chooses the axes",
        True,
    ),
    Case(
        "stages that are sharded",
        both(training(parallelism={"pipeline": 2, "fsdp": 2}), group(max=4)),
        f"{_PARALLELISM}.pipeline",
        "the stages of pipeline 2 are whole on their processes: leave out fsdp and tensor",
        True,
    ),
    Case(
        "stages whose channels are divided",
        both(training(parallelism={"pipeline": 3, "tensor": 2}), group(max=6)),
        f"{_PARALLELISM}.pipeline",
        "the stages of pipeline 3 are whole on their processes",
        True,
    ),
    Case(
        "stages that are compiled",
        both(training(compile=True, parallelism={"pipeline": 2}), group(max=2)),
        "spec.training.compile",
        "the stages of parallelism.pipeline are not compiled: leave out compile, or pipeline",
        True,
    ),
    Case(
        "more stages than slots",
        both(training(parallelism={"data": 2, "pipeline": 2}), group(max=3)),
        _PARALLELISM,
        "than cluster.workers offer",
        True,
    ),
    Case(
        "auto beside shards",
        both(training(parallelism={"auto": True, "fsdp": 2}), group(max=2)),
        f"{_PARALLELISM}.auto",
        "auto chooses the axes",
        True,
    ),
)

BOUNDS = (
    Case("no stage", training(parallelism={"pipeline": 0}), f"{_PARALLELISM}.pipeline", "pipeline"),
    Case("no shard", training(parallelism={"fsdp": 0}), f"{_PARALLELISM}.fsdp", "fsdp"),
    Case(
        "batch norm of an unknown kind",
        training(parallelism={"batchNorm": "global"}),
        f"{_PARALLELISM}.batchNorm",
        "allowed: local, sync",
    ),
)

ACCEPTED = (
    ("as many processes as slots", both(training(parallelism={"data": 8}), group(max=4, slots=2))),
    ("a mesh that fills the slots", both(training(parallelism={"data": 2, "fsdp": 2, "tensor": 2}), group(max=8))),
    ("a sample for each batch rank", both(training(batchSize=4, parallelism={"fsdp": 4}), group(max=4))),
    ("channels take no samples", both(training(batchSize=1, parallelism={"tensor": 2}), group(max=2))),
    ("stages take no samples", both(training(batchSize=2, parallelism={"data": 2, "pipeline": 3}), group(max=6))),
    ("a mesh that is chosen", training(parallelism={"auto": True, "batchNorm": "sync"})),
    ("not auto, beside an axis", both(training(parallelism={"auto": False, "fsdp": 2}), group(max=2))),
    ("synchronised batch norm", training(parallelism={"batchNorm": "sync"})),
)
