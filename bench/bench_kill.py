"""Runs that are killed with SIGKILL at random moments, against undisturbed ones: whether anything differs.

Training processes on gloo, on 2, 3 and 4 workers and each kind of mesh, one or all of them killed while they start,
step, validate and save, up to three times a run; see `tests/unit/scaling_training/train/killed.py` for what must hold
after each kill and in the end. Then whole `scalingjob run` commands with Ray: a training process, the driver or all
processes at once, and with a parameter server one of its actors. There weights and curves must be the undisturbed
run's as well; in update mode async, which promises no such thing, every epoch must have been closed once.

    python -m bench.bench_kill [--kills 120] [--ray-kills 8] [--seed 0]

A failure is printed with the seed that shows it again, and ends the command with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling_training.train import World
from tests.local import runs
from tests.unit.scaling_training.train.killed import CASES, Case, Straight, Tally, disturbed, straight
from tests.unit.scaling_training.worlds import in_world

KILLS_PER_RUN = 3
RAY: dict[str, dict[str, Any]] = {
    "data 2": {"parallelism": {"data": 2}},
    "fsdp 2": {"parallelism": {"fsdp": 2}},
    "async": {"parallelism": {"data": 2}, "update": {"mode": "async", "shards": 2}},
}
EPOCHS = 12
LIMIT_S = 300.0
GONE_S = 60.0
# Of these small jobs, about.
AN_EPOCH_S = 0.3


def main() -> int:
    """Kill, compare, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=120, help="of training processes without Ray, over all meshes")
    parser.add_argument("--ray-kills", type=int, default=8, help="of `scalingjob run`, each in a run of its own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        in_world(1, _nothing)  # the processes' server has its imports
        tally, by_case = without_ray(Path(folder), options.kills, options.seed, failures)
        killed = with_ray(Path(folder), options.ray_kills, options.seed, failures)
    print(
        json.dumps(
            {
                "bench": "kill",
                "kills": tally.kills,
                "whileSaving": tally.while_saving,
                "beforeTheFirstStep": tally.before_the_first_step,
                "stepsDoneAgain": tally.steps_done_again,
                "byCase": by_case,
                "rayKills": killed,
                "failures": failures,
            }
        )
    )
    return 1 if failures else 0


def _nothing(world: World) -> None:
    pass


def without_ray(root: Path, kills: int, seed: int, failures: list[str]) -> tuple[Tally, dict[str, int]]:
    """The cases by turns, until that many processes or groups were killed."""
    total, by_case, undisturbed = Tally(), Counter[str](), dict[str, Straight]()
    for number in range(2 * kills):
        if total.kills >= kills:
            break
        case: Case = CASES[number % len(CASES)]
        name = f"{case.name} ({case.workers} workers)"
        if case.name not in undisturbed:
            undisturbed[case.name] = straight(case, root / f"straight-{number}")
        here = seed + number
        try:
            tally = disturbed(undisturbed[case.name], root / f"disturbed-{number}", kills=KILLS_PER_RUN, seed=here)
        except Exception as error:
            failures.append(f"{name}, seed {here}: {error}")
            print(failures[-1], flush=True)
            continue
        total += tally
        by_case[name] += tally.kills
        print(f"{name}, seed {here}: {tally}; {total.kills} kills in all", flush=True)
    return total, dict(by_case)


def with_ray(root: Path, kills: int, seed: int, failures: list[str]) -> dict[str, int]:
    """How many of each kind."""
    undisturbed: dict[str, runs.Finished] = {}
    killed: Counter[str] = Counter()
    for number in range(kills):
        name = list(RAY)[number % len(RAY)]
        place = root / f"ray-{number}"
        place.mkdir()
        job = runs.manifest(place, epochs=EPOCHS, deterministic=True, **RAY[name])
        if name not in undisturbed:
            undisturbed[name] = runs.run(
                str(job), "--run-dir", str(place / "straight"), folder=place / "straight", timeout_s=LIMIT_S
            )
            assert undisturbed[name].code == 0, undisturbed[name].err
        chance = random.Random(seed + number)
        what = ""
        try:
            what = a_killed_command(job, place / "disturbed", undisturbed[name], chance, exact=name != "async")
        except Exception as error:
            failures.append(f"{name} with Ray, seed {seed + number}: {error}")
            print(failures[-1], flush=True)
        killed[f"{name}: {what or 'failed'}"] += 1
        print(f"{name} with Ray, seed {seed + number}: {what}", flush=True)
    return dict(killed)


def a_killed_command(job: Path, folder: Path, straight: runs.Finished, chance: random.Random, *, exact: bool) -> str:
    """What was killed; AssertionError when the run does not end as it should."""
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    epoch = chance.randrange(1, EPOCHS - 1)
    started.wait_until(lambda: epochs(started) >= epoch)
    time.sleep(chance.uniform(0, AN_EPOCH_S))
    kinds: dict[str, Callable[[int], list[int]]] = {
        "a training process": runs.training_processes,
        "the driver": lambda pid: [pid],
        "all": lambda pid: [pid, *runs.descendants(pid)],
        "an actor of the server": lambda pid: [
            child
            for child in runs.descendants(pid)
            if any(name in runs.title(child) for name in ("ShardActor", "CoordinatorActor"))
        ],
    }
    what = chance.choice([kind for kind in kinds if not exact or kind != "an actor of the server"])
    victims = kinds[what](started.process.pid)
    below = runs.descendants(started.process.pid)
    if started.process.poll() is not None or not victims:
        what = "nothing, for it had ended"
    else:
        for victim in victims if what == "all" else [chance.choice(victims)]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
    finished = started.wait(LIMIT_S)
    if what in ("the driver", "all"):
        deadline = time.monotonic() + GONE_S
        while runs.alive(below):
            assert time.monotonic() < deadline, f"{runs.alive(below)} outlived the driver"
            time.sleep(0.2)
        again = ["--resume", str(folder)] if folder.exists() else ["--run-dir", str(folder)]
        finished = runs.run(str(job), *again, folder=folder, timeout_s=LIMIT_S)
    assert finished.code == 0, finished.err
    if exact:
        assert finished.curves == straight.curves, "the curves"
        assert weights(finished) == weights(straight), "the weights"
    else:
        assert [row["epoch"] for row in finished.curves] == list(range(1, EPOCHS + 1))
    return what


def epochs(started: runs.Started) -> int:
    """How many are in the curves."""
    curves = started.folder / "curves/attempt-0001.jsonl"
    return len(curves.read_text().splitlines()) if curves.exists() else 0


def weights(finished: runs.Finished) -> list[bytes]:
    """Of the last checkpoint."""
    last = max(finished.folder.glob("checkpoints/attempt-*/step-*/MANIFEST.json"))
    return [file.read_bytes() for file in sorted(last.parent.glob("*.safetensors"))]


if __name__ == "__main__":
    sys.exit(main())
