"""How many workers are started, and what they are sent."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray import cloudpickle as pickle

    from scaling_training.engine import policies, trainer
    from scaling_training.engine.ray_internals.train import WorkerGroupCallback
    from scaling_training.engine.sizing import Sizing

# What Ray sends with a call; what is larger goes through the object store.
INLINE_BYTES = 100 * 1024
ELASTIC = Sizing(least=1, wanted=2, most=8, gpus_per_worker=0)
FIXED = Sizing(least=2, wanted=2, most=2, gpus_per_worker=0)


@pytest.mark.parametrize(
    ("slots", "sizing", "waited_s", "workers"),
    [
        pytest.param(2, ELASTIC, 0.0, 2, id="all that was promised: at once"),
        pytest.param(5, ELASTIC, 0.0, 5, id="more than promised: all of them"),
        pytest.param(20, ELASTIC, 0.0, 8, id="no more than the most"),
        pytest.param(1, ELASTIC, 14.9, None, id="fewer: wait a while"),
        pytest.param(1, ELASTIC, 15.0, 1, id="fewer for long: start"),
        pytest.param(0, ELASTIC, 99.0, None, id="below the least: wait for ever"),
        pytest.param(2, FIXED, 0.0, 2, id="fixed: start"),
        pytest.param(1, FIXED, 99.0, None, id="fixed: wait for all"),
    ],
)
def test_workers_for(slots: int, sizing: Sizing, waited_s: float, workers: int | None) -> None:
    assert policies.workers_for(slots, sizing, waited_s=waited_s) == workers


def ends() -> dict[str, Any]:
    return {"ended": True}


def test_no_process_has_to_fetch_the_training_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts: dict[str, Any] = {}

    class Controller:
        def __init__(self, **given: Any) -> None:
            parts.update(given)

        async def run(self) -> None: ...

        def get_result(self) -> None: ...

    monkeypatch.setattr(trainer, "InProcessController", Controller)
    one = trainer.InProcessTrainer(
        ends,
        workers=2,
        resources_per_worker={"slot": 1.0},
        scratch=str(tmp_path),
        supervisor=WorkerGroupCallback(),
        scaling_policy=lambda config, processes: None,
        failure_policy=lambda config: None,
        given_up=lambda: False,
    )
    one._initialize_and_run_controller(train_fn_ref="a reference into the object store")
    sent = pickle.dumps(parts["train_fn_ref"])
    assert len(sent) < INLINE_BYTES
    assert pickle.loads(sent).get()() == {"ended": True}
