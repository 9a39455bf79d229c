"""Who may open the test split.

A number from the test split is worth something only if nothing was chosen by it. Search, early stopping, the
target of a study and the gate of a compression use validation data; the test split opens only for a stage
that merely reports.
"""

from __future__ import annotations

_STAGES = ("evaluate", "report")


class TestAccess:
    """The token that opens the test split; only the stages evaluate and report can make one."""

    __test__ = False  # the name looks like a test class to pytest

    def __init__(self, stage: str) -> None:
        if stage not in _STAGES:
            raise PermissionError(
                f"stage {stage} may not open the test split, only {' and '.join(_STAGES)} may: use validation data"
            )
        self.stage = stage
