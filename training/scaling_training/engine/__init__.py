"""Running a training under Ray: the only package of the training library that knows Ray.

Ray's parts are imported where they are used: looking at a finished run's ledger must not cost an import of Ray.
"""

from scaling_training.engine.errors import EngineError
from scaling_training.engine.sizing import Sizing, plan_workers

__all__ = ["EngineError", "Sizing", "plan_workers"]
