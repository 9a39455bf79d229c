"""What a situation leads to, before it is written down as a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .conditions import Verdicts, merged
from .types import Action, Event, Memory, PodView


@dataclass(frozen=True, slots=True)
class Outcome:
    """The memory to persist, the phase to show, and what to do and tell."""

    memory: Memory
    phase: str
    actions: Sequence[Action] = ()
    events: Sequence[Event] = ()
    look_again_s: float | None = None
    # Worker pods at work, by group; None keeps what the status says of them.
    alive: Mapping[str, Sequence[PodView]] | None = None


def noted(memory: Memory, verdicts: Verdicts, now: float) -> Memory:
    """`memory` with these conditions."""
    return replace(memory, conditions=merged(memory.conditions, verdicts, now=now))


def sooner(*waits: float | None) -> float | None:
    """The shortest of several waits, None being for ever.

    One that is over says nothing any more: what it led to has been decided, and it must not hide those that go on.
    """
    return min((wait for wait in waits if wait is not None and wait > 0), default=None)
