"""Every rule, schedule and metric that can be chosen or shown has its formula written down."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scaling_training.evaluate.classification import ClassificationTally
from scaling_training.optim import OPTIMIZERS, SCALING_RULES, SCHEDULES

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", [*OPTIMIZERS, *SCHEDULES, *SCALING_RULES])
def test_every_rule_and_schedule_has_a_row(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "optimization.md").read_text()


def test_every_metric_has_a_definition() -> None:
    text = (DOCS / "evaluation.md").read_text()
    tally = ClassificationTally(6, loss_sum=lambda output, batch: output.sum(), device=torch.device("cpu"))
    tally.confusion[0, 0] = 1
    for name in tally.result("abcdef").scalars():
        assert f"| `{name}`" in text, name
