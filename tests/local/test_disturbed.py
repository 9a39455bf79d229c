"""Interrupts and losses: the run goes on from its last checkpoint and ends as the undisturbed one does.

Starting Ray is most of what a run costs here. So the tests share one run: they come in this order, and each takes it as
the one before left it. A test that runs alone, or after one that failed, begins with a run of its own.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.local import runs
from tests.local.runs import Finished, Started
from tests.outcome import FAILED

pytestmark = pytest.mark.timeout(900)


@dataclass
class Shared:
    """The run that the tests take on from each other, and the command that is at work on it, if one is."""

    job: Path
    folder: Path
    started: Started | None = None
    # What it has to say of what the tests did to it, and how often it has to restart training; seen when it ends.
    sentences: list[str] = field(default_factory=list)
    restarts: int = 0

    @property
    def attempt(self) -> int:
        """The last one that began; 0 when none has."""
        return max((int(path.stem) for path in self.folder.glob("attempts/*.json")), default=0)

    def begin(self, *options: str) -> Started:
        """Start the run, or resume it; returns when the new attempt is there."""
        before = self.attempt
        how = "--resume" if before else "--run-dir"
        self.started = runs.start(str(self.job), how, str(self.folder), *options, folder=self.folder)
        self.sentences, self.restarts = [], 0
        self.started.wait_until(lambda: self.attempt > before)
        return self.started

    def training(self) -> Started:
        """The command at work, begun if there is none, once its attempt has committed checkpoints."""
        started = self.started or self.begin()
        started.wait_until(lambda: len(started.checkpoints(self.attempt)) >= 2)
        return started

    def wait_progress(self) -> None:
        """Until there is a later checkpoint than now."""
        started, attempt = self.training(), self.attempt
        reached = max(started.checkpoints(attempt), default="")
        started.wait_until(lambda: max(started.checkpoints(attempt), default="") > reached)

    def trainers(self) -> list[int]:
        """The training processes of the command at work."""
        assert self.started is not None
        return runs.training_processes(self.started.process.pid)

    def ended(self, timeout_s: float = runs.LIMIT_S) -> Finished:
        """The command at work, which ends."""
        assert self.started is not None
        started, self.started = self.started, None
        finished = started.wait(timeout_s)
        assert_said(finished, self.sentences)
        # Who is heard first, the one that died or the one that misses it, is a matter of milliseconds.
        said = " ".join(finished.err.split())
        assert said.count("restarting from the last checkpoint: training process") == self.restarts, finished.err
        return finished


@pytest.fixture(scope="module")
def shared(straight: Finished) -> Iterator[list[Shared]]:
    """The run, if there is one; the undisturbed one has ended before it begins, for it goes on between tests."""
    current: list[Shared] = []
    yield current
    _end(current)


def _end(current: list[Shared]) -> None:
    while current:
        if started := current.pop().started:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.communicate()


@pytest.fixture
def run(shared: list[Shared], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shared]:
    """The run, in whatever state; at first nothing has begun."""
    if not shared:
        shared.append(Shared(runs.manifest(tmp_path), tmp_path / "run"))
    yield shared[0]
    if request.node.stash.get(FAILED, False):
        _end(shared)


def assert_said(finished: Finished, sentences: list[str]) -> None:
    """Each pattern is found, over the ends of lines."""
    said = " ".join(finished.err.split())
    assert [sentence for sentence in sentences if not re.search(sentence, said)] == [], finished.err


def assert_same_curves(disturbed: Finished, straight: Finished) -> None:
    assert len(disturbed.curves) == len(straight.curves)
    for row, expected in zip(disturbed.curves, straight.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_ctrl_c_while_ray_starts_ends_without_a_word_of_ray(run: Shared) -> None:
    started = run.begin()
    # The stage before training is done, so Ray is next, and takes seconds.
    analysed = run.folder / f"ledger/attempt-{run.attempt:04d}/analyze.json"
    started.wait_until(analysed.exists)
    runs.interrupt(started)
    stopped = run.ended(240)
    assert stopped.code == 130, stopped.err
    assert stopped.err.splitlines()[-1].startswith("Stopped on request; what was done is saved. Go on with: ")
    assert "starting the training processes" not in stopped.err
    assert "failed" not in stopped.err


def test_a_killed_training_process_is_replaced(run: Shared) -> None:
    run.training()
    attempt, victims = run.attempt, run.trainers()
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    run.restarts += 1
    runs.assert_gone(victims)
    run.wait_progress()
    assert (run.attempt, len(run.trainers())) == (attempt, 2)


def test_a_stuck_training_process_is_found_named_and_replaced(run: Shared) -> None:
    started = run.training()
    attempt, victims = run.attempt, run.trainers()
    before = set(run.folder.glob("hangs/*"))
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGSTOP)
    run.restarts += 1
    run.sentences.append(r"has not answered for \d+ s: stopped")
    started.wait_until(lambda: not runs.alive(victims), timeout_s=300)
    run.wait_progress()
    assert (run.attempt, len(run.trainers())) == (attempt, 2)
    (hang,) = set(run.folder.glob("hangs/*")) - before
    assert hang.name.startswith(f"attempt-{attempt:04d}-")
    texts = [path.read_text() for path in sorted(hang.glob("process-*.txt"))]
    assert len(texts) == 2
    # The one that waited for it tells where, in a step or at the epoch's end; the stopped one cannot.
    assert sum(bool(re.search("train_step|_close_epoch", text)) for text in texts) == 1
    assert sum("there are no stacks" in text for text in texts) == 1


def test_a_machine_without_cpu_to_spare_raises_no_alarm(run: Shared) -> None:
    started = run.training()
    trainers, hangs = run.trainers(), set(run.folder.glob("hangs/*"))
    everybody = [started.process.pid, *trainers]
    # What a control group's quota does, in any place: 2 % of a CPU for who trains, ten times as much for the driver.
    # Longer than any silence that is tolerated, and than a step may take.
    until = time.monotonic() + 45
    try:
        while time.monotonic() < until:
            for pids, seconds in ((trainers, 0.01), (everybody[:1], 0.1)):
                _signal(pids, signal.SIGCONT)
                time.sleep(seconds)
                _signal(pids, signal.SIGSTOP)
            time.sleep(0.4)
    finally:
        _signal(everybody, signal.SIGCONT)
    run.wait_progress()
    assert run.trainers() == trainers, "nobody was taken for stuck"
    assert set(run.folder.glob("hangs/*")) == hangs


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in runs.alive(pids):
        os.kill(pid, number)


def test_ctrl_c_saves_and_says_how_to_go_on(run: Shared) -> None:
    started = run.training()
    before = run.attempt
    below = runs.descendants(started.process.pid)
    runs.interrupt(started)
    stopped = run.ended(240)
    assert stopped.code == 130, stopped.err
    assert f"--resume {run.folder}" in stopped.err
    assert "Traceback" not in stopped.err
    assert not (run.folder / "result.json").exists()
    runs.assert_gone(below)

    run.training()
    assert run.attempt == before + 1


def test_a_killed_driver_leaves_nothing_and_can_be_resumed(run: Shared) -> None:
    started = run.training()
    attempt = run.attempt
    below = runs.descendants(started.process.pid)
    started.process.kill()
    started.process.communicate()
    run.started = None
    runs.assert_gone(below)

    # A training process finds the damage; it is the driver who says so.
    newest = runs.committed(run.folder, attempt)[-1]
    runs.damage(run.folder / f"checkpoints/attempt-{attempt:04d}" / newest / "optimizer.safetensors")
    run.training()
    run.sentences.append(f"{newest} is passed over: optimizer.safetensors has another content")


def test_a_frozen_run_that_wakes_up_after_another_one_has_finished_changes_nothing(
    run: Shared, straight: Finished
) -> None:
    frozen = run.training()
    attempt, sentences = run.attempt, run.sentences
    asleep = [frozen.process.pid, *runs.descendants(frozen.process.pid)]
    _signal(asleep, signal.SIGSTOP)
    try:
        refused = runs.run(str(run.job), "--resume", str(run.folder), folder=run.folder)
        assert refused.code == 2
        assert f"is in use by process {frozen.process.pid} on " in refused.err
        run.begin("--force")
        finished = run.ended()
        assert finished.code == 0, finished.err
        assert finished.result["attempt"] == attempt + 1
        # Whatever has happened to it on the way.
        assert_same_curves(finished, straight)
        before = runs.contents(run.folder)
    finally:
        _signal(asleep, signal.SIGCONT)
    # It may train to its end before it asks the ledger.
    woken = frozen.wait(300)
    assert woken.code != 0
    assert f"attempt {attempt + 1}" in woken.err, "it says what it was superseded by"
    assert_said(woken, sentences)
    after = runs.contents(run.folder)
    changed = [name for name in after | before if after.get(name) != before.get(name)]
    own = f"attempts/{attempt:04d}.json"
    theirs = [name for name in changed if f"attempt-{attempt:04d}" not in name and name != own]
    assert theirs == [], "all that it wrote lies in places of its own"
