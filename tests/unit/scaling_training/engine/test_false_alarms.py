"""How often the watchdog takes a machine's moods for a hang: hours of made training, with the real pulse and watch.

Processes train in step, and each gets the pauses that load, storage and the interpreter give it. The driver asks
them as it does, and sees what they have answered by then. Every alarm is a false one, unless a process is frozen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from scaling_training.engine import watchdog
from scaling_training.engine.watchdog import Stuck, Watchdog
from scaling_training.world.heartbeat import Phase, Pulse

RANKS = 3
LOOK_S = 0.2

Draw = Callable[[random.Random], float]


def always(seconds: float) -> Draw:
    return lambda random: seconds


def mostly(usual: float, *, rarely: float, one_in: int) -> Draw:
    """About the usual time, and now and then up to another one."""
    return lambda random: (
        random.uniform(0.7, 1.3) * usual if random.randrange(one_in) else random.uniform(usual, rarely)
    )


def heavy_tailed(usual: float, *, longest: float) -> Draw:
    """As times are under load: the longest are many times the usual one, and not rare."""
    return lambda random: min(longest, usual * random.paretovariate(1.1))


AT_ONCE, SHORT, LOOK, SECONDS = always(0.005), always(0.5), always(LOOK_S), always(5.0)
STEADY, VALIDATION = mostly(0.1, rarely=0.3, one_in=50), mostly(3.0, rarely=6.0, one_in=10)


@dataclass(frozen=True)
class Weather:
    """What one process meets, in seconds."""

    first_step: Draw = SECONDS
    step: Draw = STEADY
    data: Draw = AT_ONCE
    validation: Draw = VALIDATION
    save: Draw = SHORT
    answer: Draw = AT_ONCE
    look: Draw = LOOK  # from one look of the driver to the next
    standstill: tuple[float, float] | None = None  # nothing on the machine runs from here on for so long
    frozen: tuple[int, float] | None = None  # this rank stops for good at that moment


BURSTS = Weather(
    step=heavy_tailed(0.1, longest=10.0), answer=heavy_tailed(0.02, longest=6.0), look=heavy_tailed(0.2, longest=4.0)
)
STORM = Weather(
    first_step=always(90.0),
    step=heavy_tailed(1.5, longest=14.0),
    validation=heavy_tailed(20.0, longest=55.0),
    answer=heavy_tailed(0.3, longest=8.0),
    look=heavy_tailed(0.4, longest=5.0),
)
PAUSES = Weather(step=mostly(0.1, rarely=5.0, one_in=100), answer=mostly(0.01, rarely=5.0, one_in=200))
COMPILER = Weather(first_step=always(400.0))
SLOW_DISK = Weather(
    data=mostly(0.02, rarely=12.0, one_in=200),
    validation=mostly(0.5, rarely=50.0, one_in=4),
    save=mostly(0.5, rarely=300.0, one_in=4),
)
LONG_VALIDATION = Weather(validation=mostly(120.0, rarely=500.0, one_in=4))
LONG_STEPS = Weather(step=mostly(8.0, rarely=60.0, one_in=20))
STANDSTILL = Weather(standstill=(300.0, 120.0))


def beats(weather: Weather, random: random.Random) -> Iterator[tuple[float, int, Phase, int]]:
    """When which rank enters which phase, so many steps done; in the order of time within each rank."""
    now, step = 0.0, 0
    for rank in range(RANKS):
        yield now, rank, Phase.START, 0
    while True:
        ends = []
        for rank in range(RANKS):
            data, compute = weather.data(random), (weather.step if step else weather.first_step)(random)
            yield now, rank, Phase.DATA, step
            yield now + data, rank, Phase.STEP, step
            ends.append(now + data + compute)
        # Each waits for the last one.
        now, step = max(ends), step + 1
        if step % 200 == 0:
            for rank in range(RANKS):
                yield now, rank, Phase.VALIDATION, step
            now += max(weather.validation(random) for _ in range(RANKS))
        if step % 100 == 0:
            # Rank 0 saves; the others go ahead into the next step and wait there.
            yield now, 0, Phase.SAVE, step
            for rank in range(1, RANKS):
                yield now, rank, Phase.DATA, step
                yield now + 0.01, rank, Phase.STEP, step
            now += weather.save(random)


def alarms(weather: Weather, *, seconds: float, seed: int = 0) -> list[tuple[float, Stuck]]:
    """When the watchdog raised which alarm; the processes go on nevertheless."""
    draw = random.Random(seed)
    coming = beats(weather, random.Random(seed + 1))
    later: list[tuple[float, int, Phase, int]] = []
    pulses = [Pulse() for _ in range(RANKS)]
    dog = Watchdog(RANKS, now=0.0)
    answers: dict[int, float] = {}
    found: list[tuple[float, Stuck]] = []
    now, shift = 0.0, 0.0
    begin, length = weather.standstill or (seconds, 0.0)
    while now < seconds:
        # What the processes did until now, by their clock, which a standstill of the machine sets back.
        ahead = [beat for beat in later if beat[0] + shift <= now]
        later = [beat for beat in later if beat[0] + shift > now]
        while not later or later[-1][0] + shift <= now + 30:
            beat = next(coming)
            (ahead if beat[0] + shift <= now else later).append(beat)
        for at, rank, phase, step in sorted(ahead, key=lambda beat: beat[0]):
            if weather.frozen is None or rank != weather.frozen[0] or at < weather.frozen[1]:
                pulses[rank].beat(phase, step, now=at + shift)
        for rank in range(RANKS):
            is_frozen = weather.frozen is not None and rank == weather.frozen[0] and now >= weather.frozen[1]
            if rank in answers and (is_frozen or answers[rank] > now):
                continue
            if answers.pop(rank, None) is not None:
                dog.answered(rank, pulses[rank].read(), now=now)
            dog.asked(rank, now=now)
            answers[rank] = now + weather.answer(draw)
        verdict = dog.look(now=now)
        if isinstance(verdict, Stuck):
            found.append((now, verdict))
            if weather.frozen is not None:
                return found
            dog = Watchdog(RANKS, now=now)
            answers = {}
        now += max(LOOK_S, weather.look(draw))
        if now >= begin and shift == 0.0 and length:
            now, shift = now + length, length
            # The driver runs again before the others do.
            answers = {rank: at + length + 1.0 for rank, at in answers.items()}
    return found


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(Weather(), id="quiet"),
        pytest.param(BURSTS, id="load in bursts, steps a hundred times as long"),
        pytest.param(STORM, id="load all the time"),
        pytest.param(PAUSES, id="garbage collection and page faults"),
        pytest.param(COMPILER, id="a compiler in the first step"),
        pytest.param(SLOW_DISK, id="slow storage, for data and for saving"),
        pytest.param(LONG_VALIDATION, id="validation takes longer than training"),
        pytest.param(LONG_STEPS, id="long steps that vary"),
        pytest.param(STANDSTILL, id="a machine that stands still for two minutes"),
    ],
)
def test_no_weather_raises_an_alarm(weather: Weather) -> None:
    assert alarms(weather, seconds=1200.0) == []


@pytest.mark.parametrize(
    ("limit", "value", "weather"),
    [
        pytest.param("SILENT_S", 2.0, STORM, id="silence"),
        pytest.param("STEP_FLOOR_S", 3.0, BURSTS, id="a step"),
        pytest.param("STEPS", 2.0, LONG_STEPS, id="a long step"),
        pytest.param("FIRST_STEP_S", 60.0, COMPILER, id="the first step"),
        pytest.param("UNKNOWN_S", 60.0, LONG_VALIDATION, id="the first validation"),
        pytest.param("LONG_FLOOR_S", 5.0, SLOW_DISK, id="a short validation"),
        pytest.param("UNKNOWN_S", 60.0, SLOW_DISK, id="a save"),
        pytest.param("TICK_S", 600.0, STANDSTILL, id="the watch's own time"),
    ],
)
def test_each_limit_is_what_keeps_some_weather_from_raising_one(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float, weather: Weather
) -> None:
    monkeypatch.setattr(watchdog, limit, value)
    assert alarms(weather, seconds=1200.0) != []


@pytest.mark.parametrize("weather", [pytest.param(Weather(), id="quiet"), pytest.param(BURSTS, id="bursts")])
def test_the_same_weather_hides_no_frozen_process(weather: Weather) -> None:
    ((at, found),) = alarms(replace(weather, frozen=(2, 300.0)), seconds=600.0)
    assert found.ranks == (2,)
    # The silence that is tolerated, by the watch's own clock, which load slows down.
    assert 300.0 + watchdog.SILENT_S <= at < 300.0 + 3 * watchdog.SILENT_S
