"""The learning rate for another batch size, when the number of workers changes it.

With k = batch / reference batch:

- linear: rate * k (Goyal et al. 2017, section 2.1), for SGD: k small steps are about one k times as long.
- sqrt: rate * sqrt(k) (Krizhevsky 2014; Malladi et al. 2022 for Adam): the update's noise keeps its variance.

Neither holds right after the change, so the rate goes over to its new value linearly within a warm-up
(Goyal et al. 2017, section 2.2, who take 5 epochs). All is a function of the step: nothing is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scaling_training.registry import lookup, table


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """A rule by name: the factor on the learning rate, from the ratio of the batch sizes."""

    name: str
    description: str
    factor: Callable[[float], float] = field(repr=False)


SCALING_RULES: Mapping[str, RuleRecord] = table(
    RuleRecord("linear", "in proportion to the batch size", lambda ratio: ratio),
    RuleRecord("sqrt", "in proportion to the square root of the batch size", math.sqrt),
)


def rate_factor(rule: str, *, batch: int, reference: int) -> float:
    """What the rate, right for ``reference`` samples per step, is multiplied by for ``batch`` samples per step."""
    return lookup(SCALING_RULES, rule, field="scaling rule").factor(batch / reference)


def ramped_factor(before: float, after: float, *, steps_since: int, warmup_steps: int) -> float:
    """The factor ``steps_since`` steps after the change (0: the first step with the new batch).

    Linear from ``before``, reaching ``after`` in the last step of the warm-up; ``after`` at once without one.
    """
    if steps_since + 1 >= warmup_steps:
        return after
    return before + (after - before) * (steps_since + 1) / warmup_steps
