"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Nothing is timed. Where CI is set, the same examples run each time: a new finding should not stop another's change.
settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("project")
