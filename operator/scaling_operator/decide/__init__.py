"""All policy of the operator, pure: spec, observation and time go in, a decision comes out.

A module answers one question. None of them knows a client, a clock, a logger or a random number; waiting is an
answer that says when to look again. `decide` composes them.
"""

from .job import decide
from .types import Decision, Job, Observed

__all__ = ["Decision", "Job", "Observed", "decide"]
