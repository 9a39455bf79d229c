from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling_training.errors import UserError
from scaling_training.formats import ForeignError
from scaling_training.ledger import AttemptTakenError, Ledger, Record, SupersededError, digest, latest_attempt
from scaling_training.storage import Storage


def record(key: str = "k", state: str = "Succeeded", **output: object) -> Record:
    return Record("train", key, state, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", dict(output))  # type: ignore[arg-type]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def test_an_attempt_is_claimed_once(storage: Storage) -> None:
    Ledger(storage, attempt=1).claim({})
    with pytest.raises(AttemptTakenError, match="attempt 1"):
        Ledger(storage, attempt=1).claim({})
    assert latest_attempt(storage) == 1


def test_a_lower_attempt_cannot_be_claimed(storage: Storage) -> None:
    Ledger(storage, attempt=3).claim({})
    with pytest.raises(SupersededError, match="superseded by attempt 3"):
        Ledger(storage, attempt=2).claim({})


def test_nothing_is_written_by_a_superseded_attempt(storage: Storage) -> None:
    old, new = Ledger(storage, attempt=1), Ledger(storage, attempt=2)
    old.claim({})
    old.write(record("before"))
    new.claim({})
    with pytest.raises(SupersededError):
        old.write(record("after"))
    with pytest.raises(SupersededError):
        old.publish("result.json", b"old")
    new.publish("result.json", b"new")
    assert storage.read("result.json") == b"new"
    assert not list(new.finished("train", "after"))


def test_finished_work_is_found_newest_first_and_only_by_its_digest(storage: Storage) -> None:
    for attempt, value in ((1, "first"), (2, "second")):
        ledger = Ledger(storage, attempt=attempt)
        ledger.claim({})
        ledger.write(record("same", value=value))
    assert [found.output["value"] for found in ledger.finished("train", "same")] == ["second", "first"]
    assert not list(ledger.finished("train", "other"))
    assert not list(ledger.finished("evaluate", "same"))


def test_a_failed_stage_is_not_finished(storage: Storage) -> None:
    ledger = Ledger(storage, attempt=1)
    ledger.write(record("k", state="Failed"))
    assert not list(ledger.finished("train", "k"))


def test_another_run_is_asked_last_and_named(storage: Storage, tmp_path: Path) -> None:
    earlier = Storage(str(tmp_path / "earlier"))
    Ledger(earlier, attempt=1).write(record("k", value="theirs"))
    ledger = Ledger(storage, attempt=1, previous=earlier)
    ledger.write(record("k", value="ours"))
    assert [(found.output["value"], found.root) for found in ledger.finished("train", "k")] == [
        ("ours", None),
        ("theirs", earlier.root),
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"stage": "train"}'], ids=["empty", "cut", "list", "fields missing"]
)
def test_a_damaged_record_is_refused_and_stays(storage: Storage, content: bytes) -> None:
    storage.write("ledger/attempt-0001/train.json", content)
    with pytest.raises(
        UserError, match=r"ledger/attempt-0001/train.json, which says how a stage .* or delete it to have"
    ):
        list(Ledger(storage, attempt=2).finished("train", "k"))
    assert storage.read("ledger/attempt-0001/train.json") == content


def test_a_record_of_another_version_is_refused(storage: Storage) -> None:
    later = json.loads(record("k").to_bytes()) | {"format": 99}
    storage.write("ledger/attempt-0001/train.json", json.dumps(later).encode())
    with pytest.raises(ForeignError, match=r"train.json has format 99, and this version reads format 1: go on with"):
        list(Ledger(storage, attempt=2).finished("train", "k"))


def test_a_record_without_a_format_is_one_of_the_first_release(storage: Storage) -> None:
    value = json.loads(record("k").to_bytes())
    del value["format"]
    storage.write("ledger/attempt-0001/train.json", json.dumps(value).encode())
    assert [found.digest for found in Ledger(storage, attempt=2).finished("train", "k")] == ["k"]


def test_a_record_survives_its_bytes() -> None:
    original = record("k", value={"a": [1, 2.5, None]})
    assert Record.from_bytes(original.to_bytes(), where="") == original


def test_a_digest_depends_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
