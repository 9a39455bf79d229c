"""The stages of a job, in order: the table that the driver works through.

A new stage is one module with its functions and one line here.
"""

from scaling_training.stages import analyze, evaluate, report, train
from scaling_training.stages.base import Stage

STAGES: tuple[Stage, ...] = (analyze.STAGE, train.STAGE, evaluate.STAGE, report.STAGE)

__all__ = ["STAGES", "Stage"]
