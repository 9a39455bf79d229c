"""The one way in which a command ends badly without a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Something that the person at the keyboard has to put right, said in one sentence."""
