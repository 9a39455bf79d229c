"""What the API server refuses: when is it asked again, and when is that news? Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What was refused is tried again after a pause that doubles. The pauses stay short because nobody tells when a quota
# has room again, and whoever trains with fewer workers waits for that.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 20.0
# Pauses are longer or shorter by up to this part, so that jobs that wait for one quota do not all ask at once.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Refusal:
    """What stands against creating something, and when to try again; `pause_s` is the pause before its jitter."""

    sentence: str
    retry_at: float
    pause_s: float


def refused(
    known: Refusal | None,
    sentence: str,
    *,
    now: float,
    unit: float,
    pause_s: float | None = None,
    least_s: float = 0.0,
) -> Refusal:
    """The refusal to remember now that the server said `sentence`, after the `known` one if any.

    `unit`, from 0 to 1, draws the jitter. The pause is `pause_s` when its length is known, and never less than
    `least_s`. The sentence is the known one as long as nothing but figures of a quota's use has changed.
    """
    if pause_s is None:
        pause_s = min(LONGEST_PAUSE_S, 2 * known.pause_s) if known is not None else FIRST_PAUSE_S
    wait_s = max((1.0 + JITTER * (2.0 * unit - 1.0)) * pause_s, least_s)
    if known is not None and _without_usage(known.sentence) == _without_usage(sentence):
        sentence = known.sentence
    return Refusal(sentence, now + wait_s, pause_s)


def _without_usage(sentence: str) -> str:
    """A refusal without what a quota says of its use, which changes with every other pod of the namespace."""
    return re.sub(r"\bused: \S*", "", sentence)
