"""What a change of the number of workers does to the batch and to the rate (elastic.batch: perWorker).

batchSize and learningRate are meant for ``referenceWorkers``, each of which takes batchSize / referenceWorkers
samples. So many samples are taken by each worker that is there: the global batch grows and shrinks with them, and the
rate follows by `optim.scaling`, going over to its new value within ``warmupEpochs`` after a change (Goyal et al.
2017). With elastic.batch: constant nothing changes: that is how the loop works in any case.

A step is then no fixed number of samples, so what depends on the step (schedules, the end of warm-up) is taken from
samples: the step of a schedule is that of the reference batch. What has to be kept in a checkpoint is a `Resize`:
the factor that was reached and the cursor where the number of workers changed last.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api.update import ElasticSpec
from scaling_training.optim.scaling import ramped_factor, rate_factor


@dataclass(frozen=True, slots=True)
class Resize:
    """The last change of the number of workers."""

    workers: int  # since then
    cursor: int  # samples consumed when it came
    factor: float  # on the rate, at that moment


def effective_batch(spec: ElasticSpec, *, batch_size: int, workers: int) -> int:
    """Samples of a global batch over all ``workers``; ``batch_size`` is training.batchSize."""
    if spec.batch == "constant":
        return batch_size
    # Rounded, so that a reference that does not divide the batch is right at the reference itself.
    return max(workers, round(batch_size * workers / _reference(spec)))


def effective_factor(spec: ElasticSpec, *, batch_size: int, last: Resize, cursor: int, samples_per_epoch: int) -> float:
    """The factor on the learning rate at a cursor, for ``last.workers`` workers."""
    batch = effective_batch(spec, batch_size=batch_size, workers=last.workers)
    return ramped_factor(
        last.factor,
        _target(spec, batch_size=batch_size, workers=last.workers),
        steps_since=(cursor - last.cursor) // batch,
        warmup_steps=round(spec.warmup_epochs * samples_per_epoch / batch),
    )


def resized(
    spec: ElasticSpec, last: Resize | None, *, workers: int, batch_size: int, cursor: int, samples_per_epoch: int
) -> Resize:
    """What to go by from now on; ``last`` itself when the number is what it was. The first number needs no ramp."""
    if last is None:
        return Resize(workers, cursor, _target(spec, batch_size=batch_size, workers=workers))
    if last.workers == workers:
        return last
    reached = effective_factor(
        spec, batch_size=batch_size, last=last, cursor=cursor, samples_per_epoch=samples_per_epoch
    )
    return Resize(workers, cursor, reached)


def schedule_step(cursor: int, *, samples_per_epoch: int, batch_size: int) -> int:
    """The step (0-based) of a run in batches of ``batch_size`` that the sample at ``cursor`` belongs to.

    Batches end with an epoch, so an epoch has ceil(samples_per_epoch / batch_size) of them.
    """
    epoch, offset = divmod(cursor, samples_per_epoch)
    return epoch * -(-samples_per_epoch // batch_size) + offset // batch_size


def _target(spec: ElasticSpec, *, batch_size: int, workers: int) -> float:
    batch = effective_batch(spec, batch_size=batch_size, workers=workers)
    return rate_factor(spec.rate_rule, batch=batch, reference=batch_size)


def _reference(spec: ElasticSpec) -> int:
    assert spec.reference_workers is not None
    return spec.reference_workers
