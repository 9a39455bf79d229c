"""Runs whose processes are killed at random moments, and what must hold of them.

Everything is real: processes that form a gloo group, the whole loop with its saves in the background, SIGKILL from
outside. Moments come from a seed. A victim dies alone, and the others live on for a while as they would until
somebody ends the group, or all die at once.

After each kill every checkpoint with a manifest must verify. The next group must take its first step right after the
newest of them, and every step, also those that are done again, must have the undisturbed run's loss. In the end,
weights, optimizer and curves must be the undisturbed run's. All bit for bit.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef, load_checkpoint
from scaling_training.checkpoint.catalog import FOLDER
from scaling_training.checkpoint.manifest import MANIFEST
from scaling_training.storage import Storage
from scaling_training.train import World, loop
from scaling_training.train.step import train_step
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, left_of
from tests.unit.scaling_training.worlds import Running, started

# Losses of the undisturbed run by step (from 1), as hexadecimal floats.
Losses = Mapping[int, str]
# How often a kill falls into the start of the processes and not into their work.
_IN_THE_START = 0.2
# How often those who are left live on, and for how many seconds at most.
_OTHERS_SURVIVE, _SURVIVAL_S = 0.7, 0.4
_LOOK_S = 0.002
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Case:
    """A run by its mesh, on as many processes as that has; ``training`` goes over the training section."""

    mesh: Mapping[str, int]
    training: Mapping[str, Any] = field(default_factory=dict)
    model: str = "small-cnn"

    @property
    def name(self) -> str:
        """As people say it."""
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        return f"{mesh}, {self.training['update']['mode']}" if "update" in self.training else mesh

    @property
    def workers(self) -> int:
        """Processes."""
        return math.prod(self.mesh.values())

    @property
    def spec(self) -> ScalingJobSpec:
        """Four epochs of twelve steps, saved after each second one."""
        return a_run(
            self.model,
            bits=32,
            samples=400,
            **{
                "epochs": 4,
                "optimizer": {"name": "adamw", "learningRate": 0.003},
                "clipNorm": 1.0,
                "ema": {"decay": 0.9},
                "schedule": {"name": "one-cycle", "warmupFraction": 0.3},
                "deterministic": True,
                "checkpoint": {"everySteps": 2, "keep": 2},
                "parallelism": dict(self.mesh),
                **self.training,
            },
        )


CASES = (
    Case({"data": 2}),
    Case({"data": 3}),
    Case({"data": 4}),
    Case({"fsdp": 2}),
    Case({"fsdp": 3}),
    Case({"fsdp": 4}),
    Case({"tensor": 2}),
    Case({"tensor": 4}),
    Case({"data": 2, "fsdp": 2}),
    Case({"fsdp": 2, "tensor": 2}),
    Case({"data": 3}, {"update": {"mode": "local", "steps": 3, "outer": {"rate": 0.7, "momentum": 0.9}}, "ema": None}),
    Case({"pipeline": 2, "data": 2}, {"batchSize": 24}, model="two blocks"),
)


@dataclass(slots=True)
class Straight:
    """The undisturbed run of a case."""

    case: Case
    run: Run
    losses: Losses
    start_s: float  # until the first step is done
    steps_s: float  # from there to the end


@dataclass(slots=True)
class Tally:
    """What happened."""

    kills: int = 0
    while_saving: int = 0  # with a checkpoint begun and not committed
    before_the_first_step: int = 0  # of the group that was killed
    steps_done_again: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.kills += other.kills
        self.while_saving += other.while_saving
        self.before_the_first_step += other.before_the_first_step
        self.steps_done_again += other.steps_done_again
        return self


def straight(case: Case, root: Path) -> Straight:
    """Run it undisturbed."""
    root.mkdir()
    log = root / "losses-0"
    began = time.monotonic()
    with started(case.workers, trained, case.spec, str(root), 1, str(log)) as running:
        wait_for_a_step(running, log, 1)
        stepped = time.monotonic()
        outcomes = running.results()
        ended = time.monotonic()
    losses = _losses(root, 0, case.workers)
    first = losses[0]
    assert all(other == first for other in losses), "all ranks know the same loss"
    return Straight(case, left_of(str(root), outcomes[0]), dict(first), stepped - began, ended - stepped)


def disturbed(expected: Straight, root: Path, *, kills: int, seed: int) -> Tally:
    """Run it, killed up to ``kills`` times; AssertionError when anything is not as undisturbed."""
    case, chance, tally = expected.case, random.Random(seed), Tally()
    attempt = 1
    root.mkdir()
    for group in range(_ATTEMPTS):
        base = newest_committed(root)
        log = str(root / f"losses-{group}")
        with started(case.workers, trained, case.spec, str(root), attempt, log) as running:
            killed = False
            if tally.kills < kills:
                _wait_for_a_moment(running, chance, expected, Path(log), base)
                killed = _kill(running, chance)
            outcomes = None if killed else running.results()
        taken = _losses(root, group, case.workers)
        tally.steps_done_again += _check_losses(taken, expected.losses, base, furthest=_furthest(root, group))
        check_committed(root)
        if outcomes is not None:
            assert_bit_for_bit(left_of(str(root), outcomes[0]), expected.run, f"{case.name}, seed {seed}")
            return tally
        tally.kills += 1
        tally.while_saving += bool(_begun(root))
        tally.before_the_first_step += not any(taken)
        # The processes are replaced, or the whole attempt is.
        attempt += chance.random() < 0.3
    raise AssertionError("it never ended")


def trained(world: World, spec: ScalingJobSpec, root: str, attempt: int, log: str, held_at: float = math.inf) -> Any:
    """What each process does: train, and note the loss of each step where a SIGKILL leaves it.

    After step ``held_at`` it waits to be killed, however late that comes.
    """
    note = os.open(f"{log}-{world.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with patch.object(loop, "train_step", _noting(train_step, note, held_at)):
        return loop.train(
            spec,
            storage=Storage(root),
            attempt=attempt,
            world=world,
            observer=lambda progress: None,
            stop_requested=lambda: False,
            key="key",
            resume=None,
        )


def _noting(take: Callable[..., Any], note: int, held_at: float) -> Callable[..., Any]:
    def noting(*arguments: Any, step: int, **options: Any) -> Any:
        result = take(*arguments, step=step, **options)
        os.write(note, f"{step + 1} {result.loss_sum.hex()}\n".encode())
        if step + 1 == held_at:
            signal.pause()
        return result

    return noting


def _wait_for_a_moment(running: Running, chance: random.Random, expected: Straight, log: Path, base: int) -> None:
    """Anywhere in the start, or anywhere after any of the steps that are left."""
    if chance.random() < _IN_THE_START:
        wait_for_a_step(running, log, 1, within_s=chance.uniform(0, expected.start_s))
        return
    last = len(expected.losses)
    step = base + 1 + int(chance.random() * max(last - base - 1, 0))
    wait_for_a_step(running, log, step)
    # A validation and a save come between two steps as well.
    wait_for_a_step(running, log, step + 2, within_s=chance.uniform(0, 2 * expected.steps_s / last))


def wait_for_a_step(running: Running, log: Path, step: int, *, within_s: float = math.inf) -> None:
    """Until rank 0 has noted it, or has ended, or for so long."""
    note = log.with_name(f"{log.name}-0")
    end = time.monotonic() + within_s
    while time.monotonic() < end and not running.pipes[0].poll(_LOOK_S):
        if note.exists() and any(taken >= step for taken, _ in _noted(note)):
            return


def _kill(running: Running, chance: random.Random) -> bool:
    """One process, and the others at once or a little later; False when the run had ended before."""
    if all(pipe.poll() for pipe in running.pipes):
        return False
    order = list(running.processes)
    chance.shuffle(order)
    order[0].kill()
    if chance.random() < _OTHERS_SURVIVE:
        time.sleep(chance.uniform(0, _SURVIVAL_S))
    for process in order[1:]:
        process.kill()
    for process in order:
        process.join()
    return True


def _losses(root: Path, group: int, workers: int) -> list[list[tuple[int, str]]]:
    """By rank, what each noted; of a line that was cut off nothing."""
    files = [root / f"losses-{group}-{rank}" for rank in range(workers)]
    return [_noted(file) if file.exists() else [] for file in files]


def _noted(file: Path) -> list[tuple[int, str]]:
    lines = file.read_text().splitlines(keepends=True)
    pairs = [line.split() for line in lines if line.endswith("\n")]
    return [(int(step), loss) for step, loss in pairs]


def _furthest(root: Path, group: int) -> int:
    """The last step that any group before this one took."""
    files = [file for file in root.glob("losses-*") if int(file.name.split("-")[1]) < group]
    return max((step for file in files for step, _ in _noted(file)), default=0)


def _check_losses(taken: Sequence[Sequence[tuple[int, str]]], expected: Losses, base: int, *, furthest: int) -> int:
    """How many steps were done again."""
    for rank, steps in enumerate(taken):
        assert [step for step, _ in steps] == list(range(base + 1, base + 1 + len(steps))), (
            f"rank {rank} went on from step {steps[0][0] - 1}, but step {base} was committed"
        )
        for step, loss in steps:
            assert loss == expected[step], f"the loss of step {step} on rank {rank}"
    longest = max(taken, key=len)
    return sum(step <= furthest for step, _ in longest)


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob(f"{FOLDER}/attempt-*/step-*"))


def _begun(root: Path) -> list[Path]:
    return [folder for folder in _folders(root) if not (folder / MANIFEST).exists()]


def newest_committed(root: Path) -> int:
    """The step of the newest checkpoint that has a manifest; 0 when there is none."""
    committed = [folder for folder in _folders(root) if (folder / MANIFEST).exists()]
    return int(committed[-1].name.partition("-")[2]) if committed else 0


def check_committed(root: Path) -> None:
    """Whatever the moment of the kill was, what has a manifest is whole."""
    storage = Storage(str(root))
    for folder in _folders(root):
        if (folder / MANIFEST).exists():
            load_checkpoint(storage, CheckpointRef(str(folder.relative_to(root)), 1, 0))
