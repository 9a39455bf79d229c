from __future__ import annotations

from dataclasses import replace

import pytest

from scaling_training.engine.watchdog import (
    DATA_FLOOR_S,
    FIRST_STEP_S,
    LONG_FLOOR_S,
    SILENT_AT_START_S,
    SILENT_S,
    STEP_FLOOR_S,
    STEPS,
    TICK_S,
    UNKNOWN_S,
    WAITED_FOR_S,
    Fine,
    Stuck,
    Watchdog,
)
from scaling_training.world.heartbeat import Heartbeat, Phase, Pulse

LOOK_S = 0.2
STEPPING = Heartbeat(step=7, phase=Phase.STEP, median_step_s=0.1, longest_s=0.0)
FIRST = replace(STEPPING, step=0, median_step_s=None)


def watched(
    *beats: Heartbeat | None, seconds: float, mute: tuple[int, ...] = (), look_s: float = LOOK_S
) -> Fine | Stuck:
    """What the watchdog says after so many seconds of the same heartbeats; mute processes answer once only."""
    dog = Watchdog(len(beats), now=100.0)
    found: Fine | Stuck = Fine()
    for look in range(round(seconds / look_s) + 1):
        now = 100.0 + look * look_s
        for rank, beat in enumerate(beats):
            if beat is None or (rank in mute and look > 0):
                if look <= 1:
                    dog.asked(rank, now=now)
                continue
            dog.asked(rank, now=now)
            dog.answered(rank, beat, now=now)
        found = dog.look(now=now)
        if isinstance(found, Stuck):
            return found
    return found


STARTING = replace(FIRST, phase=Phase.START)
BEHIND = replace(STEPPING, phase=Phase.DATA)
COMPILING = replace(STEPPING, phase=Phase.COMPILE)
VALIDATING = replace(STEPPING, step=8, phase=Phase.VALIDATION)
SAVING = replace(VALIDATING, phase=Phase.SAVE)
WAITING = replace(STEPPING, step=5, phase=Phase.WAIT)
ENDED = replace(STEPPING, step=5, phase=Phase.END)


@pytest.mark.parametrize(
    ("beats", "mute", "limit", "ranks"),
    [
        pytest.param((STEPPING, STEPPING), (1,), SILENT_S, (1,), id="one does not answer"),
        pytest.param((FIRST, FIRST), (0,), SILENT_AT_START_S, (0,), id="one does not answer in the first step"),
        pytest.param((STEPPING, BEHIND, STEPPING), (), DATA_FLOOR_S, (1,), id="one waits for data, all for it"),
        pytest.param((STEPPING, COMPILING), (), FIRST_STEP_S, (1,), id="one compiles, all wait for it"),
        pytest.param((COMPILING, COMPILING), (1,), SILENT_AT_START_S, (1,), id="one does not answer as it compiles"),
        pytest.param((STEPPING, replace(STEPPING, step=6)), (), STEP_FLOOR_S, (1,), id="one is a step behind"),
        pytest.param((STEPPING, STEPPING), (), STEP_FLOOR_S, (0, 1), id="nobody knows who"),
        pytest.param((STEPPING,), (), STEP_FLOOR_S, (0,), id="a single process"),
        pytest.param(
            (replace(STEPPING, median_step_s=3.0),) * 2, (), 3.0 * STEPS, (0, 1), id="long steps get their multiple"
        ),
        pytest.param((FIRST, replace(FIRST, phase=Phase.DATA)), (), FIRST_STEP_S, (1,), id="the first step"),
        pytest.param(
            (VALIDATING, replace(STEPPING, step=8)), (), UNKNOWN_S, (0,), id="rank 0 validates, the other waits"
        ),
        pytest.param(
            (replace(VALIDATING, longest_s=2.0), replace(STEPPING, step=8)), (), LONG_FLOOR_S, (0,),
            id="a validation is known to be short",
        ),
        pytest.param((replace(VALIDATING, longest_s=90.0),), (), 900.0, (0,), id="a validation is known to be long"),
        pytest.param(
            (replace(SAVING, longest_s=0.2), replace(STEPPING, step=8)), (), UNKNOWN_S, (0,),
            id="a save after short validations",
        ),
        pytest.param(
            (WAITING, replace(STEPPING, median_step_s=10.0)), (), 200.0, (1,),
            id="one has slow steps and the other waits for its work, fewer steps done",
        ),
        pytest.param((VALIDATING, WAITING), (), UNKNOWN_S, (0,), id="rank 0 validates, the other waits for work"),
        pytest.param((SAVING, ENDED), (), UNKNOWN_S, (0,), id="rank 0 saves, and the other has ended"),
        pytest.param(
            (WAITING, replace(WAITING, step=6), ENDED), (), DATA_FLOOR_S, (0, 1), id="all wait for work"
        ),
        pytest.param((replace(SAVING, expected_s=0.5),), (), UNKNOWN_S, (0,), id="a save that is expected to be short"),
        pytest.param((replace(SAVING, expected_s=120.0),), (), 1200.0, (0,), id="a save that is expected to be long"),
        pytest.param((STARTING, STARTING), (), UNKNOWN_S, (0, 1), id="a start from nothing"),
        pytest.param(
            (replace(STARTING, expected_s=120.0), STARTING), (), 1200.0, (0, 1),
            id="rank 0 reads a large checkpoint, and the other waits for it",
        ),
        pytest.param(
            (replace(SAVING, expected_s=200.0), replace(STEPPING, step=8)), (), WAITED_FOR_S, (0,),
            id="a save that may take longer than the others wait for it",
        ),
        pytest.param((replace(SAVING, expected_s=200.0),), (), 2000.0, (0,), id="a save that nobody waits for"),
    ],
)  # fmt: skip
def test_what_is_stuck_is_found_when_its_limit_is_reached_and_not_before(
    beats: tuple[Heartbeat, ...], mute: tuple[int, ...], limit: float, ranks: tuple[int, ...]
) -> None:
    assert watched(*beats, seconds=limit - 2 * LOOK_S, mute=mute) == Fine()
    found = watched(*beats, seconds=limit + 2 * LOOK_S, mute=mute)
    assert isinstance(found, Stuck)
    assert found.ranks == ranks


@pytest.mark.parametrize(
    ("beats", "mute", "sentence"),
    [
        pytest.param((STEPPING, STEPPING), (1,), "training process 1 has not answered for 10 s: stopped", id="silent"),
        pytest.param(
            (STEPPING, BEHIND), (),
            "training process 1 made no step for 180 s (waiting for the data of step 8): stopped",
            id="behind",
        ),
        pytest.param(
            (WAITING, replace(WAITING, step=6)), (),
            "training processes 0 and 1 made no step for 180 s (waiting for work after step 6): stopped",
            id="waiting",
        ),
        pytest.param(
            (STEPPING,) * 3, (), "training processes 0, 1 and 2 made no step for 15 s (in step 8): stopped", id="all"
        ),
    ],
)  # fmt: skip
def test_the_sentence_names_them(beats: tuple[Heartbeat, ...], mute: tuple[int, ...], sentence: str) -> None:
    found = watched(*beats, seconds=2 * DATA_FLOOR_S, mute=mute)
    assert isinstance(found, Stuck)
    assert found.why == sentence


def test_a_machine_that_stands_still_raises_no_alarm() -> None:
    dog = Watchdog(2, now=0.0)
    for rank in (0, 1):
        dog.answered(rank, STEPPING, now=0.0)
        dog.asked(rank, now=0.0)
    # Nobody ran for five minutes, the watch included.
    assert dog.look(now=300.0) == Fine()
    assert dog.look(now=300.0 + SILENT_S - 2 * TICK_S) == Fine()


def test_whoever_has_ended_or_never_answered_is_not_watched() -> None:
    ended = replace(STEPPING, phase=Phase.END)
    assert watched(ended, ended, seconds=100, mute=(0,)) == Fine()
    assert watched(STEPPING, None, seconds=100) == Fine()


def test_a_step_in_between_starts_the_time_anew() -> None:
    dog = Watchdog(1, now=0.0)
    for second in range(200):
        dog.answered(0, replace(STEPPING, step=second // 12), now=float(second))
        assert dog.look(now=float(second)) == Fine()


def test_a_step_is_all_of_its_micro_batches() -> None:
    pulse = Pulse()
    pulse.beat(Phase.DATA, 0, now=-500.0)
    pulse.beat(Phase.COMPILE, 0, now=-499.0)
    for step in range(1, 4):
        for piece in range(30):
            pulse.beat(Phase.DATA, step, now=step * 60.0 + piece * 2.0)
            pulse.beat(Phase.STEP, step, now=step * 60.0 + piece * 2.0 + 0.1)
    pulse.beat(Phase.VALIDATION, 4, now=240.0)
    # Another pause between two steps is no part of either.
    pulse.beat(Phase.DATA, 4, now=900.0)
    pulse.beat(Phase.STEP, 4, now=901.0)
    pulse.beat(Phase.DATA, 5, now=960.0)
    assert pulse.read().median_step_s == 60.0


def test_the_pulse_tells_the_median_step_the_longest_validation_and_what_is_expected() -> None:
    pulse = Pulse()
    now = 0.0
    for step, seconds in enumerate([9.0, 1.0, 1.0, 1.5]):
        pulse.beat(Phase.DATA, step, now=now)
        pulse.beat(Phase.STEP, step, now=now + 0.1)
        now += seconds
    pulse.beat(Phase.DATA, 4, now=now)
    assert pulse.read() == Heartbeat(4, Phase.DATA, median_step_s=1.25, longest_s=0.0)
    pulse.beat(Phase.VALIDATION, 4, now=now + 1)
    pulse.beat(Phase.SAVE, 4, expected_s=2.0, now=now + 4)
    assert pulse.read() == Heartbeat(4, Phase.SAVE, median_step_s=1.25, longest_s=3.0, expected_s=2.0)
    pulse.beat(Phase.DATA, 4, now=now + 14)
    assert pulse.read() == Heartbeat(4, Phase.DATA, median_step_s=1.25, longest_s=3.0)
