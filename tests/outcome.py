"""What a fixture may know of the test that used it."""

from __future__ import annotations

import pytest

# Set at a test whose call has failed: what it shares with others is not as it should be.
FAILED: pytest.StashKey[bool] = pytest.StashKey()
