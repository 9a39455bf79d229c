"""Killed at random moments, runs on several processes end as the undisturbed ones do. `make soak-kill` kills more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.scaling_training.train.killed import Case, disturbed, straight

# Half of the soak's epochs.
SHORT = {"epochs": 2}
# A run may end before it is killed.
TRIES = 3

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    ("case", "kills", "seed"),
    [
        (Case({"data": 3}, SHORT), 2, 9),
        (Case({"tensor": 2}, SHORT), 1, 10),
        (Case({"data": 2, "fsdp": 2}, SHORT), 1, 3),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_killed_at_random_and_resumed_is_the_straight_run(tmp_path: Path, case: Case, kills: int, seed: int) -> None:
    expected = straight(case, tmp_path / "straight")
    tallies = (
        disturbed(expected, tmp_path / f"disturbed-{seed + again}", kills=kills, seed=seed + again)
        for again in range(TRIES)
    )
    assert any(tally.kills for tally in tallies)
