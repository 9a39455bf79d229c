"""Which training process is stuck, if one is. Pure: what the processes said and the time are arguments.

All processes of a group wait for the slowest in every step, so that nobody gets further says that one is stuck but
not which. That is found in this order:

1. A process that does not answer. The answer comes from a thread of its own, so a process that computes or waits
   for others answers; one that is stopped, swapped out or on a lost machine does not.
2. The process that is furthest behind, by step and phase: the others wait for it in a collective. Only its own
   phase's limit counts, so a rank 0 that validates for a minute is not taken for a hang of those who wait. Who says
   itself that it waits for the others, or that it has nothing left to do, is not behind, whatever its step.
3. When all are at the same place and none gets on, or when all wait, it cannot be told which one is to blame, and all
   are named.

No false alarms on a loaded machine: the limits are multiples of what the process itself has shown before, with
floors far above what load does; and the watch counts its own time (`Clock`), which stands still while the watching
process itself is kept from running. So a machine that freezes, or has no CPU to spare for anybody, raises no alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling_training.clock import Clock
from scaling_training.world.heartbeat import Heartbeat, Phase

# Silence. An answer takes milliseconds and no CPU to speak of; the interpreter's lock, which it needs, changes hands
# every 5 ms but is held longer by imports, unpickling and a compiler, which are matters of the start and first step.
SILENT_S = 10.0
SILENT_AT_START_S = 60.0
# A step may take so many times the median one: a batch of another size, a slow disk, a neighbour's burst.
STEPS = 20.0
# ... and never less than this: short steps say little about what can come between.
STEP_FLOOR_S = 15.0
# Remote storage stalls, for longer than any step shows, and gets on again by itself.
DATA_FLOOR_S = 180.0
# The first two steps start the data's workers and fill caches; a compiler works for as long in any step.
FIRST_STEP_S = 600.0
# Nothing is known of how long a start takes but for the checkpoint that it reads, nor of a validation until there was
# one. Who reads or saves a checkpoint says what it expects of storage, which may well stall for minutes before it gets
# on again: so long it gets at least.
UNKNOWN_S = 600.0
LONGEST = 10.0
LONG_FLOOR_S = 60.0
# And never longer than the others wait in a collective (`backend.COLLECTIVE_TIMEOUT_S`): they would fail first, and an
# error of theirs does not tell who kept them.
WAITED_FOR_S = 1500.0
# What the watch's clock moves at most between two looks, which are 0.2 s apart when the machine has time.
TICK_S = 1.0


@dataclass(slots=True)
class Seen:
    """What is known of one process. Times are seconds of the watch's clock."""

    heartbeat: Heartbeat | None = None  # None: it has never answered
    changed_at: float = 0.0  # when it was first seen at its step and phase
    asked_at: float | None = None  # of the question that is not answered yet; None: there is none


@dataclass(frozen=True, slots=True)
class Fine:
    """Nobody is stuck."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """These processes are to be stopped."""

    ranks: tuple[int, ...]
    why: str  # one sentence that names them
    silent: bool = False  # they do not answer


class Watchdog:
    """Gathers what the processes of one group say. ``now`` is a monotonic second everywhere."""

    def __init__(self, size: int, *, now: float) -> None:
        self._clock = Clock(now, TICK_S)
        self._seen = {rank: Seen() for rank in range(size)}

    def asked(self, rank: int, *, now: float) -> None:
        """A process was asked for its heartbeat."""
        self._seen[rank].asked_at = self._clock.tick(now)

    def answered(self, rank: int, heartbeat: Heartbeat, *, now: float) -> None:
        """It answered."""
        seen, before = self._seen[rank], self._seen[rank].heartbeat
        seen.asked_at = None
        if before is None or (before.step, before.phase) != (heartbeat.step, heartbeat.phase):
            seen.changed_at = self._clock.tick(now)
        seen.heartbeat = heartbeat

    def look(self, *, now: float) -> Fine | Stuck:
        """Whether one is stuck."""
        return decide(self._seen, self._clock.tick(now))


def decide(seen: Mapping[int, Seen], now: float) -> Fine | Stuck:
    """Whether one of the processes, by rank, is stuck at second ``now`` of the watch's clock."""
    beats = {rank: one.heartbeat for rank, one in seen.items() if one.heartbeat is not None}
    silent = {
        rank: now - one.asked_at
        for rank, one in seen.items()
        if one.asked_at is not None and rank in beats and now - one.asked_at >= _silence_limit(beats[rank])
    }
    if silent:
        ranks = tuple(sorted(silent))
        what = "has" if len(ranks) == 1 else "have"
        why = f"{_named(ranks)} {what} not answered for {max(silent.values()):.0f} s: stopped"
        return Stuck(ranks, why, silent=True)
    if len(beats) < len(seen):
        # One that has never answered is still coming up, which is watched by whoever starts it.
        return Fine()
    last = _furthest_behind({rank: beat for rank, beat in beats.items() if beat.phase is not Phase.END})
    if not last:
        return Fine()
    # The one that came there last decides: the others may have waited for it.
    idle_s = min(now - seen[rank].changed_at for rank in last)
    limit_s = max(_limit(beat) for beat in last.values())
    if len(seen) > 1:
        limit_s = min(limit_s, WAITED_FOR_S)
    if idle_s < limit_s:
        return Fine()
    ranks = tuple(sorted(last))
    where = _where(max(last.values(), key=lambda beat: beat.step))
    return Stuck(ranks, f"{_named(ranks)} made no step for {idle_s:.0f} s ({where}): stopped")


def _furthest_behind(beats: Mapping[int, Heartbeat]) -> Mapping[int, Heartbeat]:
    """Those of the processes that the others wait for; all of them, if all wait."""
    at_work = {rank: beat for rank, beat in beats.items() if beat.phase is not Phase.WAIT}
    if not at_work:
        return beats
    behind = min((beat.step, beat.phase) for beat in at_work.values())
    return {rank: beat for rank, beat in at_work.items() if (beat.step, beat.phase) == behind}


def _silence_limit(beat: Heartbeat) -> float:
    if beat.phase is Phase.END:
        return float("inf")
    running = beat.phase not in (Phase.START, Phase.COMPILE) and beat.median_step_s is not None
    return SILENT_S if running else SILENT_AT_START_S


def _limit(beat: Heartbeat) -> float:
    """How long a process may stay in its phase, in seconds."""
    if beat.phase is Phase.VALIDATION:
        return max(LONG_FLOOR_S, LONGEST * beat.longest_s) if beat.longest_s else UNKNOWN_S
    if beat.phase in (Phase.START, Phase.SAVE):
        return max(UNKNOWN_S, LONGEST * beat.expected_s)
    if beat.median_step_s is None or beat.phase is Phase.COMPILE:
        return FIRST_STEP_S
    floor_s = DATA_FLOOR_S if beat.phase in (Phase.WAIT, Phase.DATA) else STEP_FLOOR_S
    return max(floor_s, STEPS * beat.median_step_s)


def _named(ranks: tuple[int, ...]) -> str:
    if len(ranks) == 1:
        return f"training process {ranks[0]}"
    return f"training processes {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _where(beat: Heartbeat) -> str:
    step = beat.step
    place = {
        Phase.START: "starting",
        Phase.VALIDATION: f"validating after step {step}",
        Phase.SAVE: f"saving after step {step}",
        Phase.WAIT: f"waiting for work after step {step}",
        Phase.DATA: f"waiting for the data of step {step + 1}",
        Phase.COMPILE: f"compiling for step {step + 1}",
        Phase.STEP: f"in step {step + 1}",
        Phase.END: "at the end",
    }
    return place[beat.phase]
