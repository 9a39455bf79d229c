"""Every word that a status can show is explained to the person who reads it there."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling_api.reasons import ConditionType, Failure

TEXT = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text()


@pytest.mark.parametrize("word", [*ConditionType, *Failure])
def test_every_condition_and_failure_is_explained(word: str) -> None:
    assert f"`{word}`" in TEXT
