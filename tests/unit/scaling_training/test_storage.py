from __future__ import annotations

import errno
import os
import pickle
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from scaling_training.errors import UserError
from scaling_training.storage import Storage, StorageAwayError
from tests.object_store import ObjectStore


@pytest.fixture(params=["path", "file-uri", "object-store", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    match request.param:
        case "path":
            return Storage(str(tmp_path / "run"))
        case "file-uri":
            return Storage(f"file://{tmp_path}/run")
        case "s3":
            return Storage(f"{request.getfixturevalue('s3').uri}/{uuid.uuid4().hex}")
    return Storage(f"memory://bucket-{uuid.uuid4().hex}/run")


def test_what_is_written_is_read_back_and_replaced(storage: Storage) -> None:
    storage.write("a/b.bin", b"old")
    storage.write("a/b.bin", b"new content")

    assert storage.read("a/b.bin") == b"new content"
    assert storage.size("a/b.bin") == 11
    assert storage.exists("a/b.bin")


def test_names_are_those_directly_in_the_folder(storage: Storage) -> None:
    for name in ("top", "a/two", "a/one", "a/deep/three"):
        storage.write(name, b"")

    assert storage.names() == ["a", "top"]
    assert storage.names("a") == ["deep", "one", "two"]
    assert storage.names("nowhere") == []


def test_a_missing_file_is_file_not_found(storage: Storage) -> None:
    assert not storage.exists("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")


def test_create_refuses_an_existing_name_and_leaves_it(storage: Storage) -> None:
    assert storage.create("attempts/0001.json", b"first")
    assert not storage.create("attempts/0001.json", b"second")
    assert storage.read("attempts/0001.json") == b"first"


@pytest.mark.parametrize("storage", ["path", "s3"], indirect=True)
def test_of_many_that_create_one_name_exactly_one_succeeds(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: storage.create("token", b"%d" % number), range(40)))

    assert won.count(True) == 1
    assert storage.read("token") == b"%d" % won.index(True)


def test_create_is_exclusive_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    storage = Storage(str(tmp_path))

    assert storage.create("token", b"first")
    assert not storage.create("token", b"second")
    assert storage.read("token") == b"first"


def test_delete_takes_files_and_folders_and_what_is_gone_already(storage: Storage) -> None:
    storage.write("a/one", b"")
    storage.write("a/b/two", b"")
    storage.write("c", b"")
    storage.delete("c")
    storage.delete("c")
    storage.delete("a", recursive=True)
    storage.delete("a", recursive=True)

    assert storage.names() == []


def test_a_child_and_a_pickled_copy_see_the_same_files(storage: Storage) -> None:
    storage.write("a/b", b"content")

    assert storage.child("a").read("b") == b"content"
    assert pickle.loads(pickle.dumps(storage)).read("a/b") == b"content"


def test_a_relative_root_stays_the_same_folder_in_a_process_started_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Storage("runs/one"))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled).root == str(tmp_path / "runs/one")


def test_addresses(tmp_path: Path) -> None:
    assert Storage("memory://bucket/run/").url("a/b") == "memory://bucket/run/a/b"
    assert Storage("memory://bucket").local_path("a") is None
    assert Storage(str(tmp_path)).local_path("a") == tmp_path / "a"


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../b"])
def test_a_name_that_leaves_the_folder_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        storage.write(name, b"")


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file", b"old")

    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write("file", b"new")

    assert storage.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        pytest.param(errno.EACCES, "refuses access", id="permission denied"),
        pytest.param(errno.EROFS, "refuses access", id="read-only"),
        pytest.param(errno.ENOSPC, "is full", id="disk full"),
        pytest.param(errno.EDQUOT, "is full", id="quota exceeded"),
    ],
)
def test_a_place_that_takes_no_file_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(UserError, match=f"{tmp_path} {sentence}"):
        Storage(str(tmp_path)).check_writable()


def test_a_root_below_a_file_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is not a folder"):
        Storage(str(tmp_path / "file" / "run")).check_writable()


def test_other_errors_of_the_store_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(source: object, target: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", away)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Storage(str(tmp_path)).write("a", b"")


def test_a_missing_driver_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # fsspec keeps the drivers that it has found.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"s3://bucket/x.*pip install s3fs"):
        Storage("s3://bucket/x")


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(UserError, match="nonsense:// is not known"):
        Storage("nonsense://bucket")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "abfs"])
def test_every_store_that_a_spec_may_name_has_its_driver_here(scheme: str) -> None:
    driver = fsspec.get_filesystem_class(scheme)
    assert scheme in driver.protocol


def test_a_store_without_an_account_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_STORAGE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"storage az://runs needs credentials .*account_name.* spec.storage.secretRef"):
        Storage("az://runs")


def test_s3_without_credentials_is_the_users_to_mend(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # fsspec keeps connections by address, whatever the credentials.
    connections = fsspec.get_filesystem_class("s3")
    connections.clear_instance_cache()
    try:
        with pytest.raises(UserError, match=r"storage s3://.*/run needs credentials .*spec.storage.secretRef"):
            Storage(f"{s3.uri}/run").check_writable()
    finally:
        connections.clear_instance_cache()


def test_a_bucket_that_is_not_there_is_the_users_to_mend(s3: ObjectStore) -> None:
    with pytest.raises(UserError, match="storage s3://nowhere/run does not exist; create the bucket"):
        Storage("s3://nowhere/run").check_writable()


class NoCredentialsError(Exception):
    """As botocore's."""


class AwsError(Exception):
    """As botocore's ClientError."""

    response: ClassVar = {"Error": {"Code": "PreconditionFailed"}}


def refusing(storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on the object store answers a PUT with this error."""

    def put(path: str, value: bytes, mode: str) -> None:
        raise error

    filesystem = storage._backend._fs  # type: ignore[union-attr]
    monkeypatch.setattr(filesystem, "pipe_file", put)


def test_a_conditional_put_that_comes_second_created_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"memory://bucket-{uuid.uuid4().hex}")
    error = OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold")
    error.__cause__ = AwsError()
    refusing(storage, monkeypatch, error)
    assert not storage.create("token", b"")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        pytest.param(FileNotFoundError("NoSuchBucket"), "does not exist; create the bucket", id="no bucket"),
        pytest.param(PermissionError("AccessDenied"), "refuses access .AccessDenied.", id="denied"),
        pytest.param(NoCredentialsError("Unable to locate credentials"), "needs credentials", id="no credentials"),
    ],
)
def test_what_an_object_store_refuses_is_the_users_to_mend(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    storage = Storage(f"memory://bucket-{uuid.uuid4().hex}")
    refusing(storage, monkeypatch, error)
    with pytest.raises(UserError, match=sentence):
        storage.check_writable()


def test_storage_that_hangs_is_not_waited_for_without_end(tmp_path: Path) -> None:
    storage, hangs = Storage(str(tmp_path)), threading.Event()
    with pytest.raises(StorageAwayError, match=r"does not answer \(nothing within 0 s\)"):
        storage.answered(lambda: hangs.wait(60), within_s=0.01)
    hangs.set()
