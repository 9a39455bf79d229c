"""What a stage is, and what it is given.

A stage is a record of plain functions. Its digest covers all that its output depends on, the content of its inputs
included: work that is done again under the same digest (its files were lost, say) may come out otherwise, and what
was made of the old outcome is then made anew. `version` is raised when the code changes what comes out. Outputs are
JSON values: they live in the ledger and are the inputs of later stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint.key import key_parts
from scaling_training.data.dataset import Dataset
from scaling_training.engine.run import Watch
from scaling_training.engine.worker import WorkerTask
from scaling_training.ledger import Output
from scaling_training.stages.stopping import Result, unless_stopped
from scaling_training.storage import Storage
from scaling_training.train.types import TrainOutcome


class Engine(Protocol):
    """Runs a training on several processes; made by the driver, so that a stage knows nothing of Ray."""

    def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
        """See `scaling_training.engine.run.run_training` for what it raises."""


@dataclass(frozen=True)
class Run:
    """What every stage may use."""

    job: str
    spec: ScalingJobSpec
    storage: Storage
    attempt: int
    previous: Storage | None  # the run folder that resumeFrom names
    engine: Engine
    watch: Watch
    # Writes a file that all attempts share; SupersededError when a later one has begun. See `Ledger.publish`.
    publish: Callable[[str, bytes], None]
    # Evaluates on the training workers, metrics by split; None: they are on this very machine.
    workers_evaluate: Callable[[WorkerTask, Watch], Output] | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The data, opened when a stage first needs it."""
        from scaling_training.data import open_dataset

        return self.unless_stopped(lambda: open_dataset(self.spec.dataset))

    @property
    def data_fingerprint(self) -> str:
        """A hash of the data and its split."""
        dataset = self.dataset
        return self.unless_stopped(lambda: dataset.fingerprint)

    @cached_property
    def work(self) -> Mapping[str, Any]:
        """What the trained weights depend on: the parts of the key of the work.

        Put together here alone. Another machine may see the same data otherwise (copies of large files differ in
        their times), and then would not find the checkpoints that this one found.
        """
        return key_parts(self.spec, self.data_fingerprint)

    def unless_stopped(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns; StoppedError when a stop is requested meanwhile. See `stages.stopping`."""
        return unless_stopped(work, self.watch.stop_requested)


Inputs = Mapping[str, Output]


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the job."""

    name: str
    summary: str
    inputs: tuple[str, ...]  # names of earlier stages whose outputs it takes
    version: int  # raised when the code gives another output for the same inputs
    depends_on: Callable[[Run], Mapping[str, Any]]  # what else its output depends on, as JSON values
    run: Callable[[Run, Inputs], Output]
    # Whether a finished output can still be used, e.g. its checkpoint is still there; may adapt an output of
    # another run folder (its root is given). None: it has to be made anew.
    reuse: Callable[[Run, Output, str | None], Output | None]
    # What tells the output's content from another's, as JSON values. It goes into the keys of the stages that take it.
    seal: Callable[[Run, Output], Any] = lambda run, output: output
