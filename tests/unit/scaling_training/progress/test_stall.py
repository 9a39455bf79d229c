"""What does not advance is said, by the driver's own time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scaling_training.progress import ProgressModel, stall
from scaling_training.progress.stall import STALLED_S, Stall, StallWatch, mark
from tests.unit.scaling_training.progress.test_model import model, training


def test_time_counts_from_the_last_change() -> None:
    watch = Stall(now=0.0)
    ticks = [second / 2 for second in range(2 * int(STALLED_S))]
    assert [watch.idle_s("a", now=now) for now in ticks] == ticks
    assert watch.idle_s("b", now=STALLED_S) == 0.0
    assert watch.idle_s("b", now=STALLED_S + 0.5) == 0.5


def test_time_in_which_the_driver_did_not_run_does_not_count() -> None:
    watch = Stall(now=0.0)
    assert [watch.idle_s("a", now=3600.0 * hour) for hour in range(1, 4)] == [0.0, 1.0, 2.0]


def test_each_advance_shows_and_words_are_none() -> None:
    progress = model()
    marks = [mark(progress.snapshot())]
    advances: list[Callable[[], None]] = [
        lambda: progress.stage_started("train"),
        lambda: progress.training(training(step=1)),
        lambda: progress.training(training(step=2)),
        lambda: progress.stage_ended("train", "Succeeded"),
        lambda: progress.stage_started("evaluate"),
        lambda: progress.share(0.5),
        lambda: progress.share(0.6),
    ]
    for advance in advances:
        advance()
        marks.append(mark(progress.snapshot()))
    assert len(set(marks)) == len(marks)
    words: list[Callable[[], None]] = [lambda: progress.say("waiting"), lambda: progress.stalled(5.0)]
    for say in words:
        say()
        assert mark(progress.snapshot()) == marks[-1]


def test_reports_say_since_when_nothing_advances_and_no_more_once_something_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stall, "STALLED_S", 0.3)
    monkeypatch.setattr(stall, "LOOK_EVERY_S", 0.02)
    progress = model()
    progress.stage_started("train")
    before = time.time()
    watch = StallWatch(progress)
    watch.start()
    landmark = progress.snapshot().landmark
    snapshot = progress.wait(landmark, 10, landmarks=True)
    assert snapshot.landmark > landmark, "nobody waits for the next interval to hear it"
    assert snapshot.stalled_since == pytest.approx(before, abs=1)
    assert _told(progress) is not None
    progress.training(training())
    assert progress.wait(snapshot.landmark, 10, landmarks=True).stalled_since is None
    assert _told(progress) is None
    progress.finish(None)
    watch.close()


def test_a_run_that_has_ended_waits_for_nothing() -> None:
    progress = model()
    progress.stage_started("train")
    progress.stalled(1_800_000_000.0)
    assert _told(progress) == "2027-01-15T08:00:00Z"
    progress.finish(None)
    assert _told(progress) is None


def _told(progress: ProgressModel) -> str | None:
    report = progress.snapshot().report().progress
    assert report is not None
    return report.stalled_since
