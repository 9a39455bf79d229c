"""A stop before there is anything to save."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.train import ScalingConfig

    from scaling_training.engine.policies import SlotPolicy
    from scaling_training.engine.processes import Processes
from scaling_operator.resources.head import GRACE_PERIOD_S
from scaling_training.engine.errors import GivenUpError
from scaling_training.engine.failures import Cause, Kind, RestartBudget
from scaling_training.engine.mailbox import Letter
from scaling_training.engine.run import LEAVE_LIMIT_S, SAVE_LIMIT_S, Marks, StoppedError, Watch, _Group
from scaling_training.engine.sizing import Sizing
from scaling_training.engine.worker import Training, WorkerTask
from scaling_training.train.types import TrainingProgress

SIZING = Sizing(least=1, wanted=1, most=1, gpus_per_worker=0)


class Waiting(_Group):
    """Its controller makes its rounds until it is given up."""

    def _fit(self) -> None:
        self.controller = threading.current_thread()
        rounds = policy(self._given_up.is_set)
        with suppress(GivenUpError):
            while True:
                rounds.make_decision_for_running_worker_group(None, None)
                time.sleep(0.01)


def policy(given_up: Callable[[], bool]) -> SlotPolicy:
    return SlotPolicy(
        ScalingConfig(num_workers=1),
        sizing=lambda: SIZING,
        processes=Processes(lambda **options: None),
        waiting=lambda slots: None,
        given_up=given_up,
    )


def nothing(*arguments: Any) -> None:
    """Nobody listens."""


def a_group() -> Waiting:
    watcher = Watch(progress=nothing, say=nothing, mark=nothing, stop_requested=lambda: True)
    task = WorkerTask(spec={}, storage_root="/nowhere", attempt=1, job=Training(key="key", resume=None))
    return Waiting(task, lambda: SIZING, {}, "/nowhere", watcher, RestartBudget(), Marks(nothing))


def test_the_controller_has_left_ray_when_its_caller_does() -> None:
    group = a_group()
    with pytest.raises(StoppedError):
        group.run()
    assert not group.controller.is_alive()


def test_what_is_being_written_about_a_hang_is_there_when_a_stop_can_wait_no_longer() -> None:
    group, written = a_group(), list[str]()

    def slowly() -> None:
        time.sleep(1.0)
        written.append("stacks")

    group._aside.do("The stacks", slowly)
    with pytest.raises(StoppedError):
        group.run()
    assert written == ["stacks"]


def test_a_stop_that_can_wait_no_longer_tells_whether_anything_is_lost() -> None:
    for done in (None, TrainingProgress(epoch=1, epochs=2, step=5, steps=10, workers=1)):
        group = a_group()
        if done is not None:
            group._deliver(Letter(done, {}, None))
            group._restarting(Cause(Kind.LOST, "training process 0 was lost"))
        with pytest.raises(StoppedError) as stopped:
            group.run()
        assert stopped.value.saved is (done is None)


def test_a_stop_ends_within_the_grace_period_of_the_pod() -> None:
    assert SAVE_LIMIT_S + LEAVE_LIMIT_S < GRACE_PERIOD_S


def test_a_controller_that_is_given_up_starts_no_group() -> None:
    with pytest.raises(GivenUpError):
        policy(lambda: True).make_decision_for_non_running_worker_group()
