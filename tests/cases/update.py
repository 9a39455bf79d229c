"""Refusals of the section update, and of what does not go with it."""

from __future__ import annotations

from tests.cases.case import Case, both, group, put, training

_UPDATE = "spec.training.update"
_ELASTIC = "spec.training.elastic"
_PER_WORKER = {"batch": "perWorker", "referenceWorkers": 4}


def _not_sync(mode: str, **sections: object) -> dict[str, object]:
    return {"update": {"mode": mode, **({"steps": 4} if mode == "local" else {})}, **sections}


RULES = (
    Case(
        "local without steps",
        training(update={"mode": "local"}),
        f"{_UPDATE}.steps",
        "mode local needs steps, from one average to the next",
        True,
    ),
    Case(
        "steps of sync",
        training(update={"steps": 4}),
        f"{_UPDATE}.steps",
        "steps and outer belong to no other mode",
        True,
    ),
    Case(
        "outer of async",
        training(update={"mode": "async", "outer": {"momentum": 0.9}}),
        f"{_UPDATE}.steps",
        "steps and outer belong to no other mode",
        True,
    ),
    Case(
        "nesterov without outer momentum",
        training(update={"mode": "local", "steps": 4, "outer": {"nesterov": True}}),
        f"{_UPDATE}.outer.nesterov",
        "set momentum above 0 (0.9 is usual) or remove nesterov",
        True,
    ),
    Case(
        "maxStaleness of local",
        training(update={"mode": "local", "steps": 4, "maxStaleness": 8}),
        f"{_UPDATE}.mode",
        "maxStaleness, stalenessScaling and shards belong to mode async",
        True,
    ),
    Case(
        "stalenessScaling of sync",
        training(update={"stalenessScaling": "inverse"}),
        f"{_UPDATE}.mode",
        "belong to mode async; remove them or choose async",
        True,
    ),
    Case(
        "shards of sync",
        training(update={"shards": 2}),
        f"{_UPDATE}.mode",
        "belong to mode async; remove them or choose async",
        True,
    ),
    Case(
        "async with sharded parameters",
        both(training(**_not_sync("async", parallelism={"fsdp": 2})), group(max=2)),
        f"{_UPDATE}.mode",
        "workers do not meet in each step: they need parallelism.fsdp, tensor and pipeline 1",
        True,
    ),
    Case(
        "local with divided layers",
        both(training(**_not_sync("local", parallelism={"tensor": 2})), group(max=2)),
        f"{_UPDATE}.mode",
        "they need parallelism.fsdp, tensor and pipeline 1",
        True,
    ),
    Case(
        "async with stages",
        both(training(**_not_sync("async", parallelism={"pipeline": 2})), group(max=2)),
        f"{_UPDATE}.mode",
        "they need parallelism.fsdp, tensor and pipeline 1",
        True,
    ),
    Case(
        "local with synchronised batch norm",
        training(**_not_sync("local", parallelism={"batchNorm": "sync"})),
        f"{_UPDATE}.mode",
        "batchNorm local",
        True,
    ),
    Case(
        "async with a mesh that is chosen",
        training(**_not_sync("async", parallelism={"auto": True})),
        f"{_UPDATE}.mode",
        "pipeline 1, not auto",
        True,
    ),
    Case(
        "async with layers that are frozen for some epochs",
        both(
            training(update={"mode": "async"}),
            put("spec.model.freeze", [{"layers": "0"}, {"layers": "4", "untilEpoch": 1}]),
        ),
        "spec.model.freeze",
        "leave out untilEpoch or choose another training.update.mode",
        True,
    ),
    Case(
        "local with averaged weights",
        training(**_not_sync("local", ema={"decay": 0.99})),
        f"{_UPDATE}.mode",
        "and no ema",
        True,
    ),
    Case(
        "async in fp16",
        training(**_not_sync("async", precision="fp16")),
        f"{_UPDATE}.mode",
        "fp32 or bf16",
        True,
    ),
    Case(
        "perWorker without a reference",
        training(elastic={"batch": "perWorker"}),
        f"{_ELASTIC}.referenceWorkers",
        "batch perWorker needs referenceWorkers",
        True,
    ),
    Case(
        "a reference for a constant batch",
        training(elastic={"referenceWorkers": 4}),
        f"{_ELASTIC}.referenceWorkers",
        "constant has no use for it",
        True,
    ),
    Case(
        "perWorker of async",
        training(**_not_sync("async", elastic=_PER_WORKER)),
        f"{_UPDATE}.mode",
        "keep at most one of them",
        True,
    ),
    Case(
        "perWorker of gradient descent",
        training(elastic=_PER_WORKER, optimizer={"name": "gradient-descent"}),
        f"{_UPDATE}.mode",
        "keep at most one of them",
        True,
    ),
    Case(
        "async with gradient descent",
        training(**_not_sync("async", optimizer={"name": "gradient-descent"})),
        f"{_UPDATE}.mode",
        "each set the samples of a step",
        True,
    ),
)

BOUNDS = (
    Case("an unknown elastic batch", training(elastic={"batch": "free"}), f"{_ELASTIC}.batch", "constant, perWorker"),
    Case(
        "no reference worker",
        training(elastic={"batch": "perWorker", "referenceWorkers": 0}),
        f"{_ELASTIC}.referenceWorkers",
        "at least 1",
    ),
    Case("an unknown mode", training(update={"mode": "hogwild"}), f"{_UPDATE}.mode", "allowed: sync, local, async"),
    Case("no step", training(update={"mode": "local", "steps": 0}), f"{_UPDATE}.steps", "at least 1"),
    Case(
        "an outer rate of 0",
        training(update={"mode": "local", "steps": 4, "outer": {"rate": 0}}),
        f"{_UPDATE}.outer.rate",
        "above 0",
    ),
    Case(
        "an outer momentum of 1",
        training(update={"mode": "local", "steps": 4, "outer": {"momentum": 1}}),
        f"{_UPDATE}.outer.momentum",
        "below 1",
    ),
    Case("too many shards", training(update={"mode": "async", "shards": 65}), f"{_UPDATE}.shards", "at most 64"),
    Case(
        "a negative staleness",
        training(update={"mode": "async", "maxStaleness": -1}),
        f"{_UPDATE}.maxStaleness",
        "at least 0",
    ),
)

ACCEPTED = (
    (
        "async with layers that stay frozen",
        both(training(update={"mode": "async"}), put("spec.model.freeze", [{"layers": "backbone"}])),
    ),
    ("a batch per worker", training(elastic={**_PER_WORKER, "rateRule": "sqrt", "warmupEpochs": 0})),
    (
        "local steps with DiLoCo's outer optimizer",
        training(
            update={
                "mode": "local",
                "steps": 500,
                "outer": {"rate": 0.7, "momentum": 0.9, "nesterov": True},
            }
        ),
    ),
    (
        "a parameter server",
        training(update={"mode": "async", "maxStaleness": 0, "stalenessScaling": "inverse", "shards": 4}),
    ),
)
