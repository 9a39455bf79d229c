from __future__ import annotations

import pickle

import pytest
import torch

from scaling_training.engine.device import device_for
from scaling_training.errors import UserError


def test_a_process_without_a_gpu_leaves_those_it_sees_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray starts one on a machine with GPUs: the variable names all of them, and CUDA works."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pytest.fail(f"{device} became the current device"))
    assert device_for(0) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_a_gpu_that_cannot_be_used_is_no_reason_to_train_on_the_cpu() -> None:
    with pytest.raises(UserError, match=r"was given a GPU, but CUDA does not work there \(.+\): use a cluster.image"):
        device_for(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_it_is_refused_before_the_processes_meet_and_as_the_users_to_mend() -> None:
    """Ray reports it as an error of the group's start."""
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError

    from scaling_training.engine.backend import prepare
    from scaling_training.engine.failures import Kind
    from scaling_training.engine.policies import group_cause

    with pytest.raises(UserError) as refused:
        prepare(1)
    crossed = pickle.loads(pickle.dumps(refused.value))
    reported = RayTaskError("prepare", "traceback", crossed).as_instanceof_cause()
    cause = group_cause(ControllerError(reported))
    assert (cause.kind, cause.sentence) == (Kind.USER, str(refused.value))
