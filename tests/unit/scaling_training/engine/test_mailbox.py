from __future__ import annotations

import logging
import threading
from dataclasses import asdict

from scaling_training.checkpoint import CheckpointRef
from scaling_training.engine import mailbox
from scaling_training.train.types import TrainingProgress, TrainOutcome, outcome_from_dict, outcome_to_dict
from scaling_training.world.heartbeat import Phase


def test_letters_carry_the_latest_and_the_wish_to_stop_goes_back() -> None:
    mailbox.mark("point", 1.0)
    mailbox.mark("point", 2.0)
    for step in (1, 2):
        mailbox.post(TrainingProgress(epoch=0, epochs=1, step=step, steps=2, workers=1))
    letter = mailbox.exchange(stop=False)
    assert letter.progress is not None
    assert letter.progress.step == 2
    assert letter.marks["point"] == 1.0
    assert not mailbox.stop_requested()
    mailbox.exchange(stop=True)
    mailbox.exchange(stop=False)
    assert mailbox.stop_requested()


def test_letters_carry_what_was_warned_of_each_with_all_before_it() -> None:
    log = logging.getLogger("scaling_training.test_mailbox")
    log.addHandler(handler := mailbox.Warnings())
    try:
        log.warning("Checkpoint %s is passed over", "a")
        log.info("Nobody need hear this")
        assert mailbox.exchange(stop=False).warnings == ["Checkpoint a is passed over"]
        for number in range(1000):
            log.warning("Sample %d", number)
    finally:
        log.removeHandler(handler)
    warnings = mailbox.exchange(stop=False).warnings
    assert warnings[:2] == ["Checkpoint a is passed over", "Sample 0"]
    assert len(warnings) == 50


def test_an_outcome_survives_as_plain_values() -> None:
    ref = CheckpointRef("checkpoints/attempt-0001/step-00000003", 1, 3)
    outcome = TrainOutcome(
        stopped=False,
        epoch=1,
        step=3,
        checkpoint=ref,
        best=None,
        metrics={"accuracy": 0.5},
        first_step_at=1.5,
        seconds=2.0,
        history="curves/attempt-0001.jsonl",
    )
    assert outcome_from_dict(outcome_to_dict(outcome)) == outcome
    assert isinstance(asdict(outcome)["checkpoint"], dict)


def test_stacks_tell_what_every_thread_does() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="one that waits")
    thread.start()
    try:
        text = mailbox.stacks()
    finally:
        release.set()
        thread.join()
    assert "Thread one that waits:" in text
    assert "test_stacks_tell_what_every_thread_does" in text


def test_letters_carry_the_last_heartbeat() -> None:
    mailbox.beat(Phase.DATA, 4)
    mailbox.beat(Phase.STEP, 4)
    heartbeat = mailbox.exchange(stop=False).heartbeat
    assert heartbeat is not None
    assert (heartbeat.step, heartbeat.phase) == (4, Phase.STEP)
