"""Interrupts and losses: the run goes on from its last checkpoint and ends as the undisturbed one does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.local import runs
from tests.local.runs import Finished

pytestmark = pytest.mark.timeout(900)


def assert_same_curves(disturbed: Finished, straight: Finished) -> None:
    assert len(disturbed.curves) == len(straight.curves)
    for row, expected in zip(disturbed.curves, straight.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_ctrl_c_saves_and_says_how_to_go_on(straight: Finished, job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) >= 2)
    below = runs.descendants(started.process.pid)
    runs.interrupt(started)
    stopped = started.wait(240)
    assert stopped.code == 130, stopped.err
    assert f"--resume {folder}" in stopped.err
    assert "Traceback" not in stopped.err
    assert not (folder / "result.json").exists()
    runs.assert_gone(below)

    resumed = runs.run(str(job), "--resume", str(folder), folder=folder)
    assert resumed.code == 0, resumed.err
    assert resumed.result["attempt"] == 2
    assert_same_curves(resumed, straight)


def test_ctrl_c_while_ray_starts_ends_without_a_word_of_ray(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    # The stage before training is done, so Ray is next, and takes seconds.
    started.wait_until(lambda: (folder / "ledger/attempt-0001/analyze.json").exists())
    runs.interrupt(started)
    stopped = started.wait(240)
    assert stopped.code == 130, stopped.err
    assert stopped.err.splitlines()[-1].startswith("Stopped on request; what was done is saved. Go on with: ")
    assert "starting the training processes" not in stopped.err
    assert "failed" not in stopped.err


def test_a_killed_training_process_is_replaced(straight: Finished, job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) >= 2)
    victims = runs.training_processes(started.process.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    finished = started.wait(300)
    assert finished.code == 0, finished.err
    # Who is heard first, the one that died or the one that misses it, is a matter of milliseconds.
    assert "restarting from the last checkpoint: training process" in finished.err
    assert finished.result["attempt"] == 1
    assert_same_curves(finished, straight)


def test_a_killed_driver_leaves_nothing_and_can_be_resumed(straight: Finished, job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) >= 2)
    below = runs.descendants(started.process.pid)
    started.process.kill()
    started.process.communicate()
    runs.assert_gone(below)

    # A training process finds the damage; it is the driver who says so.
    newest = runs.committed(folder, 1)[-1]
    runs.damage(folder / "checkpoints/attempt-0001" / newest / "optimizer.safetensors")
    resumed = runs.run(str(job), "--resume", str(folder), folder=folder)
    assert resumed.code == 0, resumed.err
    assert f"{newest} is passed over: optimizer.safetensors has another content" in " ".join(resumed.err.split())
    assert_same_curves(resumed, straight)


def test_a_frozen_run_that_wakes_up_after_another_one_has_finished_changes_nothing(
    straight: Finished, job: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    frozen = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    frozen.wait_until(lambda: len(frozen.checkpoints()) >= 2)
    asleep = [frozen.process.pid, *runs.descendants(frozen.process.pid)]
    for pid in runs.alive(asleep):
        os.kill(pid, signal.SIGSTOP)
    try:
        refused = runs.run(str(job), "--resume", str(folder), folder=folder)
        assert refused.code == 2
        assert f"is in use by process {frozen.process.pid} on " in refused.err
        finished = runs.run(str(job), "--resume", str(folder), "--force", folder=folder)
        assert finished.code == 0, finished.err
        assert_same_curves(finished, straight)
        before = runs.contents(folder)
    finally:
        for pid in runs.alive(asleep):
            os.kill(pid, signal.SIGCONT)
    # It may train to its end before it asks the ledger.
    woken = frozen.wait(300)
    assert woken.code != 0
    assert "attempt 2" in woken.err, "it says what it was superseded by"
    after = runs.contents(folder)
    changed = [name for name in after | before if after.get(name) != before.get(name)]
    theirs = [name for name in changed if "attempt-0001" not in name and name != "attempts/0001.json"]
    assert theirs == [], "all that it wrote lies in places of its own"


def test_a_stuck_training_process_is_found_named_and_replaced(straight: Finished, job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) >= 2)
    victims = runs.training_processes(started.process.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGSTOP)
    try:
        finished = started.wait(300)
    finally:
        if victims[1] in runs.alive([victims[1]]):
            os.kill(victims[1], signal.SIGKILL)
    assert finished.code == 0, finished.err
    assert re.search(r"has not answered for \d+ s: stopped", finished.err)
    assert finished.result["attempt"] == 1
    assert_same_curves(finished, straight)
    texts = [path.read_text() for path in sorted(folder.glob("hangs/attempt-0001-1/process-*.txt"))]
    assert len(texts) == 2
    # The one that waited for it tells where, in a step or at the epoch's end; the stopped one cannot.
    assert sum(bool(re.search("train_step|_close_epoch", text)) for text in texts) == 1
    assert sum("there are no stacks" in text for text in texts) == 1


def test_a_machine_without_cpu_to_spare_raises_no_alarm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # Far more epochs than the test waits for.
    job = runs.manifest(tmp_path, epochs=20_000)
    started = runs.start(str(job), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) >= 2)
    trainers = runs.training_processes(started.process.pid)
    # Ray gives training processes the lowest priority but four: beside these they get 2 % of the CPU.
    greedy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        # Longer than any silence that is tolerated, and than a step may take.
        time.sleep(45)
    finally:
        for process in greedy:
            process.kill()
            process.wait()
    reached = started.newest()
    started.wait_until(lambda: started.newest() > reached)
    assert runs.training_processes(started.process.pid) == trainers, "nobody was taken for stuck"
    assert not (folder / "hangs").exists()
    runs.interrupt(started)
    stopped = started.wait(240)
    assert stopped.code == 130, stopped.err
    assert "restarting" not in stopped.err
