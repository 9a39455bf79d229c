"""How the work of several training processes becomes one model, and what a change of their number does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule


class OuterSpec(Model):
    """The outer optimizer of update mode local: what is done with the mean of the workers' weights."""

    rate: Annotated[float, Field(gt=0, le=10)] = Field(
        1.0, description="Share of the way from the last average to the new mean; 1 takes the mean itself."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Momentum over averages; 0.9 is DiLoCo's.")
    nesterov: bool = Field(False, description="Nesterov's momentum instead of the plain one.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.nesterov || self.momentum > 0.0",
            lambda self: not self.nesterov or self.momentum > 0,
            "nesterov is a kind of momentum: set momentum above 0 (0.9 is usual) or remove nesterov",
            field="nesterov",
        ),
    )


class UpdateSpec(Model):
    """When the workers' work is put together."""

    mode: Literal["sync", "local", "async"] = Field(
        "sync",
        description="sync: the gradient of each step is that of the whole global batch; local: each worker takes "
        "several steps by itself, then weights are averaged; async: each worker sends its gradients to a parameter "
        "server and never waits for all others.",
    )
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Mode local: optimizer steps from one average to the next."
    )
    outer: OuterSpec | None = Field(None, description="Mode local: the outer optimizer; plain averaging when absent.")
    max_staleness: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="Mode async: updates by others that a gradient may miss; a worker that would exceed it for another "
        "one waits. Absent: four for each worker.",
    )
    staleness_scaling: Literal["none", "inverse"] | None = Field(
        None,
        description="Mode async: inverse lowers the rate of a gradient that is staler than workers of equal speed "
        "make it, in proportion; none, the default, does not.",
    )
    shards: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Mode async: processes that the parameters are divided among; 1 when absent."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode != 'local' || has(self.steps)",
            lambda self: self.mode != "local" or self.steps is not None,
            "mode local needs steps, the number of optimizer steps between averages (8 is a start)",
            field="steps",
        ),
        Rule(
            "self.mode == 'local' || !has(self.steps)",
            lambda self: self.mode == "local" or self.steps is None,
            "steps {steps} belongs to mode local, not to {mode}; remove it or choose local",
            field="steps",
        ),
        Rule(
            "self.mode == 'local' || !has(self.outer)",
            lambda self: self.mode == "local" or self.outer is None,
            "outer belongs to mode local, not to {mode}; remove it or choose local",
            field="outer",
        ),
        Rule(
            "self.mode == 'async' || !has(self.maxStaleness)",
            lambda self: self.mode == "async" or self.max_staleness is None,
            "maxStaleness {maxStaleness} belongs to mode async, not to {mode}; remove it or choose async",
            field="maxStaleness",
        ),
        Rule(
            "self.mode == 'async' || !has(self.stalenessScaling)",
            lambda self: self.mode == "async" or self.staleness_scaling is None,
            "stalenessScaling {stalenessScaling} belongs to mode async, not to {mode}; remove it or choose async",
            field="stalenessScaling",
        ),
        Rule(
            "self.mode == 'async' || !has(self.shards)",
            lambda self: self.mode == "async" or self.shards is None,
            "shards {shards} belongs to mode async, not to {mode}; remove it or choose async",
            field="shards",
        ),
    )


class ElasticSpec(Model):
    """What a change of the number of workers does to the batch."""

    batch: Literal["constant", "perWorker"] = Field(
        "constant",
        description="constant: batchSize and learningRate stay, each worker takes its share; perWorker: each worker "
        "takes what it takes of batchSize at referenceWorkers, and the rate follows.",
    )
    reference_workers: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Batch perWorker: the number of workers that batchSize and learningRate are meant for."
    )
    rate_rule: Literal["linear", "sqrt"] = Field(
        "linear",
        description="Batch perWorker: the rate in proportion to the batch (linear, for sgd) or to its root (sqrt, for "
        "adam and adamw).",
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = Field(
        1.0, description="Batch perWorker: epochs in which the rate goes over to its new value after a change."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.batch != 'perWorker' || has(self.referenceWorkers)",
            lambda self: self.batch != "perWorker" or self.reference_workers is not None,
            "batch perWorker needs referenceWorkers, the number of workers that batchSize and learningRate are "
            "meant for",
            field="referenceWorkers",
        ),
        Rule(
            "self.batch == 'perWorker' || !has(self.referenceWorkers)",
            lambda self: self.batch == "perWorker" or self.reference_workers is None,
            "referenceWorkers {referenceWorkers} belongs to batch perWorker, not to {batch}; remove it or choose "
            "perWorker",
            field="referenceWorkers",
        ),
    )


def update_rules() -> tuple[Rule, ...]:
    """What the mode of update asks of the other sections of training."""
    return (
        Rule(
            "self.update.mode == 'sync' || (self.parallelism.fsdp == 1 && self.parallelism.tensor == 1)",
            lambda self: self.update.mode == "sync" or self.parallelism.model_group == 1,
            "update mode {update.mode} needs the whole model on each worker: set parallelism.fsdp ({parallelism.fsdp}) "
            "and tensor ({parallelism.tensor}) to 1, or choose mode sync",
            field="update.mode",
        ),
        Rule(
            "self.update.mode == 'sync' || self.parallelism.batchNorm == 'local'",
            lambda self: self.update.mode == "sync" or self.parallelism.batch_norm == "local",
            "parallelism.batchNorm {parallelism.batchNorm} has the workers meet in every step, which update mode "
            "{update.mode} is there to avoid: choose batchNorm local or mode sync",
            field="update.mode",
        ),
        Rule(
            "self.update.mode == 'sync' || !has(self.ema)",
            lambda self: self.update.mode == "sync" or self.ema is None,
            "ema averages weights that all workers share after each step, which update mode {update.mode} does not "
            "have: remove ema or choose mode sync",
            field="update.mode",
        ),
        Rule(
            "self.update.mode == 'sync' || self.precision != 'fp16'",
            lambda self: self.update.mode == "sync" or self.precision != "fp16",
            "precision fp16 scales the loss by what all workers see in each step, and in update mode {update.mode} "
            "they do not meet there: choose bf16, fp32 or mode sync",
            field="update.mode",
        ),
        Rule(
            "self.update.mode != 'async' || self.optimizer.name != 'gradient-descent'",
            lambda self: self.update.mode != "async" or self.optimizer.name != "gradient-descent",
            "optimizer gradient-descent takes one step with the whole training split, and update mode async takes many "
            "with parts of it: choose sgd or mode sync",
            field="update.mode",
        ),
        Rule(
            "self.elastic.batch == 'constant' || (self.update.mode != 'async' && "
            "self.optimizer.name != 'gradient-descent')",
            lambda self: (
                self.elastic.batch == "constant"
                or (self.update.mode != "async" and self.optimizer.name != "gradient-descent")
            ),
            "elastic.batch {elastic.batch} changes the samples of a step, which update mode async does not count and "
            "optimizer gradient-descent takes from the data: set elastic.batch to constant",
            field="elastic.batch",
        ),
    )
