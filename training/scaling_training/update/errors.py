"""What the parameter server says when it cannot go on with a worker. Needs no torch."""

from __future__ import annotations


class FencedError(Exception):
    """Another group of workers has taken this one's place."""


class ServerLostError(Exception):
    """A part of the server ended, and what it held is gone. The message names the part."""
