"""How the work of several training processes becomes one model, and what a change of their number does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule


class OuterSpec(Model):
    """The outer optimizer of update mode local: what is done with the mean of the workers' weights."""

    rate: Annotated[float, Field(gt=0, le=10)] = Field(1.0, description="Share of the way to the new mean.")
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
        description="sync: each step is that of the whole batch; local: each worker takes steps by itself, then "
        "weights are averaged; async: each worker sends gradients to a parameter server.",
    )
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="local: optimizer steps from one average to the next."
    )
    outer: OuterSpec | None = Field(None, description="local: the outer optimizer; plain averaging when absent.")
    max_staleness: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="async: updates by others that a gradient may miss; four for each worker when absent.",
    )
    staleness_scaling: Literal["none", "inverse"] | None = Field(
        None,
        description="async: inverse lowers the rate of a gradient that is staler than usual.",
    )
    shards: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="async: processes that the parameters are divided among; 1 when absent."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.mode == 'local') == has(self.steps) && (self.mode == 'local' || !has(self.outer))",
            lambda self: (
                (self.mode == "local") == (self.steps is not None) and (self.mode == "local" or self.outer is None)
            ),
            "mode local needs steps, from one average to the next; steps and outer belong to no other mode",
            field="steps",
        ),
        Rule(
            "self.mode == 'async' || !(has(self.maxStaleness) || has(self.stalenessScaling) || has(self.shards))",
            lambda self: self.mode == "async" or {self.max_staleness, self.staleness_scaling, self.shards} == {None},
            "maxStaleness, stalenessScaling and shards belong to mode async; remove them or choose async",
            field="mode",
        ),
    )


class ElasticSpec(Model):
    """What a change of the number of workers does to the batch."""

    batch: Literal["constant", "perWorker"] = Field(
        "constant",
        description="constant: batchSize and learningRate stay; perWorker: what each worker takes stays, and the rate "
        "follows.",
    )
    reference_workers: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="perWorker: workers that batchSize and learningRate are meant for."
    )
    rate_rule: Literal["linear", "sqrt"] = Field(
        "linear",
        description="perWorker: in proportion to the batch (for sgd) or to its root (for adam).",
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = Field(
        1.0, description="perWorker: epochs until the rate has its new value."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.batch == 'perWorker') == has(self.referenceWorkers)",
            lambda self: (self.batch == "perWorker") == (self.reference_workers is not None),
            "batch perWorker needs referenceWorkers, which batchSize and learningRate are meant for; constant has no "
            "use for it",
            field="referenceWorkers",
        ),
    )


def update_rules() -> tuple[Rule, ...]:
    """What the mode of update and the elastic batch ask of the other sections of training."""
    return (
        Rule(
            "self.update.mode == 'sync' || (self.parallelism.fsdp == 1 && self.parallelism.tensor == 1 && "
            "self.parallelism.pipeline == 1 && !self.parallelism.auto && self.parallelism.batchNorm == 'local' && "
            "!has(self.ema) && self.precision != 'fp16')",
            lambda self: (
                self.update.mode == "sync"
                or (
                    self.parallelism.model_group == 1
                    and not self.parallelism.auto
                    and self.parallelism.batch_norm == "local"
                    and self.ema is None
                    and self.precision != "fp16"
                )
            ),
            "in update modes local and async workers do not meet in each step: they need parallelism.fsdp, tensor and "
            "pipeline 1, not auto, batchNorm local, fp32 or bf16, and no ema",
            field="update.mode",
        ),
        Rule(
            "(self.update.mode != 'async' && self.elastic.batch == 'constant') || "
            "(self.optimizer.name != 'gradient-descent' && !(self.update.mode == 'async' && "
            "self.elastic.batch == 'perWorker'))",
            lambda self: (
                (self.update.mode != "async" and self.elastic.batch == "constant")
                or (
                    self.optimizer.name != "gradient-descent"
                    and not (self.update.mode == "async" and self.elastic.batch == "perWorker")
                )
            ),
            "update mode async, elastic.batch perWorker and optimizer gradient-descent each set the samples of a step: "
            "keep at most one of them",
            field="update.mode",
        ),
    )
