"""Of two that start a run by hand in one folder, the second is turned away as long as the first lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from scaling_training import lease
from scaling_training.errors import UserError
from scaling_training.formats import ForeignError
from scaling_training.lease import SILENCE_S, Holder, Lease, next_attempt
from scaling_training.ledger import AttemptTakenError, Ledger, SupersededError
from scaling_training.storage import Storage

HOLD = """
import sys, time
from scaling_training.lease import Lease
from scaling_training.ledger import Ledger
from scaling_training.storage import Storage
storage = Storage(sys.argv[1])
ledger = Ledger(storage, attempt=1)
lease = Lease(storage, ledger, lambda error: None)
ledger.claim(lease.about)
lease.start()
print("claimed", flush=True)
sys.stdin.read()
lease.close()
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def holder(storage: Storage) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work in the folder, until its standard input ends."""
    command = [sys.executable, "-c", HOLD, storage.root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def never(seconds: float) -> None:
    raise AssertionError("nobody has to be listened to")


def elsewhere(storage: Storage, *, silent_s: float, **more: Any) -> None:
    """Attempt 1 was claimed on another machine, which was heard of so long ago."""
    there = replace(Holder.this(), machine="another one")
    about = {"format": 1, "process": asdict(there), "renewedAt": time.time() - silent_s, **more}
    Ledger(storage, attempt=1).claim(about)


def test_a_new_folder_begins_with_the_first_attempt(storage: Storage) -> None:
    assert next_attempt(storage, wait=never) == 1


def test_a_run_that_lives_is_not_gone_on_with(storage: Storage, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(
        UserError, match=rf"run is in use by process {holder.pid} on \S+ since 20\S+Z: stop that first .* --force"
    ):
        next_attempt(storage, wait=never)
    assert next_attempt(storage, force=True, wait=never) == 2


def test_nor_is_one_that_is_frozen(storage: Storage, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="is in use by process"):
        next_attempt(storage, wait=never)


@pytest.mark.parametrize("waited_for", [True, False], ids=["", "and is a zombie yet"])
def test_one_that_was_killed_is_gone_on_with_at_once(
    storage: Storage, holder: subprocess.Popen[str], waited_for: bool
) -> None:
    holder.kill()
    if waited_for:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert next_attempt(storage, wait=never) == 2


def test_a_later_process_of_the_same_number_is_not_taken_for_it(storage: Storage) -> None:
    earlier = replace(Holder.this(), born=1)
    Ledger(storage, attempt=1).claim({"process": asdict(earlier), "renewedAt": time.time()})
    assert next_attempt(storage, wait=never) == 2


@pytest.mark.parametrize(("seen", "alive"), [(None, True), (1, False)], ids=["hidden by /proc", "a later process"])
def test_a_process_of_another_user_is_alive_unless_another_is_seen(
    monkeypatch: pytest.MonkeyPatch, seen: int | None, alive: bool
) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    earlier = Holder.this()
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(lease, "_born", lambda pid: seen)
    assert earlier.is_alive is alive


def test_one_that_has_ended_says_so(storage: Storage, holder: subprocess.Popen[str]) -> None:
    holder.communicate()
    assert "endedAt" in json.loads(storage.read("attempts/0001.json"))
    assert next_attempt(storage, wait=never) == 2


def test_one_on_another_machine_is_in_use_while_it_is_heard_of(storage: Storage) -> None:
    elsewhere(storage, silent_s=SILENCE_S - 60)
    with pytest.raises(
        UserError, match=r"in use by process \d+ .* last heard of 2m ago and counts as gone after 180 s of silence:"
    ):
        next_attempt(storage, wait=never)


def test_one_on_another_machine_that_is_silent_is_gone_on_with_after_a_look(storage: Storage) -> None:
    elsewhere(storage, silent_s=SILENCE_S + 1)
    waited: list[float] = []
    assert next_attempt(storage, wait=waited.append) == 2
    assert waited == [lease.LOOK_S]
    assert lease.LOOK_S > 2 * lease.RENEW_S


def test_one_whose_clock_is_behind_is_heard_in_that_look(storage: Storage) -> None:
    elsewhere(storage, silent_s=3600)

    def renews(seconds: float) -> None:
        said = json.loads(storage.read("attempts/0001.json"))
        storage.write("attempts/0001.json", json.dumps(said | {"renewedAt": said["renewedAt"] + 10}).encode())

    with pytest.raises(UserError, match=r"is in use by process .*, which was last heard of 0s ago"):
        next_attempt(storage, wait=renews)


def test_one_whose_clock_is_ahead_is_listened_to(storage: Storage) -> None:
    elsewhere(storage, silent_s=-7200)
    waited: list[float] = []
    assert next_attempt(storage, wait=waited.append) == 2
    assert waited == [lease.LOOK_S]


def test_one_whose_clock_differs_by_seconds_may_hang_as_long_as_any(storage: Storage) -> None:
    elsewhere(storage, silent_s=-5)
    with pytest.raises(UserError, match="last heard of 0s ago and counts as gone after 180 s"):
        next_attempt(storage, wait=never)


def before_a_reboot(storage: Storage, **otherwise: Any) -> None:
    """Attempt 1 was claimed on this machine, and last heard of a minute before that was started."""
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    there = replace(Holder.this(), machine=f"another-boot {Holder.this().machine.partition(' ')[2]}")
    about = {"process": asdict(there), "machineId": "of this one", "renewedAt": started - 60}
    told = {name: value() if callable(value) else value for name, value in otherwise.items()}
    Ledger(storage, attempt=1).claim(about | told)


@pytest.fixture
def started_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has an id, and has been up for a minute."""
    monkeypatch.setattr(lease, "_machine_id", lambda: "of this one")
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 60.0)


@pytest.mark.usefixtures("started_lately")
def test_one_that_a_reboot_ended_is_gone_on_with_at_once(storage: Storage) -> None:
    before_a_reboot(storage)
    assert next_attempt(storage, wait=never) == 2


@pytest.mark.usefixtures("started_lately")
@pytest.mark.parametrize(
    "otherwise",
    [
        pytest.param({"machineId": "of another"}, id="of another id"),
        pytest.param({"machineId": None}, id="without an id"),
        pytest.param({"host": "another"}, id="of another name"),
        pytest.param({"renewedAt": time.time}, id="heard of since"),
        pytest.param({"process": asdict(replace(Holder.this(), machine=f"{lease._boot()} x"))}, id="of the same boot"),
    ],
)
def test_a_machine_that_is_not_surely_this_one_is_not_taken_for_it(
    storage: Storage, otherwise: dict[str, object]
) -> None:
    before_a_reboot(storage, **otherwise)
    with pytest.raises(UserError, match="is in use by process"):
        next_attempt(storage, wait=never)


def test_of_two_that_begin_at_once_one_is_turned_away(storage: Storage) -> None:
    """What was looked at and what is claimed follow from one look at the folder."""
    elsewhere(storage, silent_s=3600)

    def another_begins(seconds: float) -> None:
        Ledger(storage, attempt=2).claim({})

    attempt = next_attempt(storage, wait=another_begins)
    with pytest.raises(AttemptTakenError, match=r"attempt 2 of .* was started before"):
        Ledger(storage, attempt=attempt).claim({})


@pytest.mark.parametrize("about", [{}, {"endedAt": "2026-01-01T00:00:00Z"}], ids=["a cluster's", "one that ended"])
def test_an_attempt_that_nobody_holds_is_gone_on_with(storage: Storage, about: dict[str, object]) -> None:
    Ledger(storage, attempt=1).claim(about)
    assert next_attempt(storage, wait=never) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b'{"process": {"pid": 1}}'], ids=["empty", "a list", "fields missing"])
def test_a_claim_that_cannot_be_read_is_said(storage: Storage, content: bytes) -> None:
    storage.write("attempts/0001.json", content)
    with pytest.raises(UserError, match=r"attempts/0001.json, which says who is at work in the run, is not readable"):
        next_attempt(storage, wait=never)
    assert next_attempt(storage, force=True) == 2


def test_a_claim_of_another_version_is_said(storage: Storage) -> None:
    elsewhere(storage, silent_s=3600, format=99)
    with pytest.raises(ForeignError, match=r"attempts/0001.json has format 99"):
        next_attempt(storage, wait=never)


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lease_is_renewed_and_hears_who_takes_over(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    heard: list[SupersededError] = []
    ledger = Ledger(storage, attempt=1)
    kept = Lease(storage, ledger, heard.append)
    ledger.claim(kept.about)
    kept.start()
    began = kept.about["renewedAt"]
    until(lambda: json.loads(storage.read("attempts/0001.json"))["renewedAt"] != began)
    Ledger(storage, attempt=2).claim({})
    until(lambda: bool(heard))
    kept.close()
    assert "attempt 2" in str(heard[0])
    assert "endedAt" not in json.loads(storage.read("attempts/0001.json")), "it writes nothing more"


def test_storage_that_is_away_for_a_while_ends_no_lease(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    write, failed = Storage.write, 0

    def away(self: Storage, name: str, data: bytes) -> None:
        nonlocal failed
        failed += 1
        if failed < 3:
            raise OSError(5, "Input/output error")
        write(self, name, data)

    ledger = Ledger(storage, attempt=1)
    kept = Lease(storage, ledger, lambda error: None)
    ledger.claim(kept.about)
    monkeypatch.setattr(Storage, "write", away)
    kept.start()
    until(lambda: failed > 3)
    kept.close()
    assert "endedAt" in json.loads(storage.read("attempts/0001.json"))
