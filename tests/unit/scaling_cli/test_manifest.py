"""YAML is read as kubectl reads it; what kubectl makes of each scalar was taken from kubectl 1.34."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaling_api.problems import Problem
from scaling_cli.errors import UsageError
from scaling_cli.manifest import Document, load, load_job

_JOB = """\
apiVersion: scaling.dev/v1alpha1
kind: ScalingJob
metadata: {name: mnist}
spec:
  storage: {claimName: runs}
  model: {name: small-cnn}
  dataset: {name: digits}
  training: {epochs: 2}
"""
_CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: runs}\n"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(text: str) -> list[Document]:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return load(str(path))

    return reader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        ("010", 8),
        ("-010", -8),
        ("0o17", 15),
        ("08", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        ("1e-3", 0.001),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        ("5.", 5.0),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("yes", True),
        ("On", True),
        ("y", True),
        ("off", False),
        ("NO", False),
        ("n", False),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 1e3", "1e3"),
        ("!!str true", "true"),
        ("4Gi", "4Gi"),
        ("small-cnn", "small-cnn"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars(read: Any, text: str, value: Any) -> None:
    (document,) = read(f"a: {text}")
    assert (document.value["a"], type(document.value["a"])) == (value, type(value))


def test_keys_are_text(read: Any) -> None:
    assert read("{1: a, yes: b, 1.5: c}")[0].value == {"1": "a", "true": "b", "1.5": "c"}


def test_anchors_and_merges(read: Any) -> None:
    text = "base: &base {a: 1, b: 2}\none: {b: 3, <<: *base}\ntwo: {<<: [{a: 9}, *base]}\nagain: *base\n"
    assert read(text)[0].value == {
        "base": {"a": 1, "b": 2},
        "one": {"a": 1, "b": 3},
        "two": {"a": 9, "b": 2},
        "again": {"a": 1, "b": 2},
    }


def test_every_field_knows_its_line(read: Any) -> None:
    (document,) = read("# a comment\na:\n  b:\n    - c: 1\n    - c: 2\n      d: {e: 3}\n")
    lines = {path: document.line(path) for path in document.lines}
    assert lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "b", 0): 4,
        ("a", "b", 0, "c"): 4,
        ("a", "b", 1): 5,
        ("a", "b", 1, "c"): 5,
        ("a", "b", 1, "d"): 6,
        ("a", "b", 1, "d", "e"): 6,
    }


def test_a_field_that_is_missing_is_blamed_on_its_section(read: Any) -> None:
    (document,) = read("a:\n  b:\n    c: 1\n")
    assert document.report(Problem(("a", "b", "d"), "is required")).endswith("job.yaml:2: a.b.d: is required")


def test_documents_count_lines_from_the_files_start(read: Any) -> None:
    documents = read("a: 1\n---\n---\n# nothing\n---\n\nb: 2\n")
    assert [(document.value, document.line(())) for document in documents] == [({"a": 1}, 1), ({"b": 2}, 7)]


_LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it should hold a ScalingJob"),
        ("---\n# nothing\n", "is empty"),
        ("a: [1, 2", "1: not YAML: expected ',' or ']'"),
        ("a: 1\n\tb: 2", "2: not YAML: found character"),
        ("a: b: c", "1: not YAML: mapping values are not allowed here"),
        ("a: 1\nb: 2\na: 3", "3: a is given twice; it stands in line 1 already"),
        ("a: {b: 1,\n b: 2}", "2: b is given twice"),
        ("a: !!python/object:os.system x", "is not supported"),
        ("a: !secret x", "the tag !secret is not supported"),
        ("a: .inf", ".inf is not a number that a manifest can hold"),
        ("a: .nan", ".nan is not a number"),
        ("? [1]\n: a", "a key must be text"),
        ("~: a", "a key must be text, not null"),
        ("a: *nobody", "not YAML: found undefined alias"),
        ("a: &a [*a]", "is too large or refers to itself"),
        (_LAUGHS, "is too large or refers to itself"),
        ("a: " + "[" * 3000, "is nested too deeply"),
        ("a: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("a: " + "1" * 5000, "1: a number of 5000 digits is more than a manifest can hold"),
        ("a: \x01", "not YAML: unacceptable character"),
        ("<<: 5", "<< takes a mapping"),
    ],
)
def test_what_cannot_be_read_is_one_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load(str(file))
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load(str(tmp_path / "job.yaml"))
    with pytest.raises(UsageError, match="is a folder"):
        load(str(tmp_path))


def test_a_file_in_another_encoding(file: Path) -> None:
    file.write_bytes("name: ä".encode("latin-1"))
    with pytest.raises(UsageError, match="not text in UTF-8"):
        load(str(file))


def test_the_one_job_of_a_file(file: Path) -> None:
    file.write_text(f"{_CLAIM}---\n{_JOB}")
    job = load_job(str(file), on_cluster=True)
    assert (job.metadata.name, job.spec.training.epochs) == ("mnist", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_CLAIM, "holds no ScalingJob; it holds PersistentVolumeClaim"),
        ("a: 1", "holds no ScalingJob; it holds something without a kind"),
        (f"{_JOB}---\n{_JOB}", "holds 2 ScalingJobs (lines 1 and 10); give each its own file"),
        (_JOB.replace("epochs", "epoch"), "job.yaml:8: spec.training.epoch: unknown field; did you mean epochs?"),
        (_JOB.replace("  storage: {claimName: runs}\n", ""), "spec.storage: storage is missing"),
        ("just text", "a manifest is a mapping"),
    ],
)
def test_no_job_or_a_wrong_one(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load_job(str(file), on_cluster=True)
    assert message in str(error.value)


def test_a_run_on_one_machine_needs_no_storage(file: Path) -> None:
    file.write_text(_JOB.replace("  storage: {claimName: runs}\n", ""))
    assert load_job(str(file), on_cluster=False).spec.storage is None


def test_problems_are_told_in_the_order_of_their_lines(file: Path) -> None:
    file.write_text(f"{_JOB}kinds: x\n".replace("  model:", "  modell: {}\n  model:").replace("epochs: 2", "epochs: 0"))
    with pytest.raises(UsageError) as error:
        load_job(str(file), on_cluster=True)
    lines = [int(line.split(":")[1]) for line in str(error.value).splitlines()[1:]]
    assert len(lines) == 3
    assert lines == sorted(lines)
