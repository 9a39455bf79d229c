from __future__ import annotations

import hashlib
import importlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaling_api.code import CodeSpec
from scaling_training.code import install
from scaling_training.errors import UserError

_SOURCE = b"ANSWER = 42\n"


@pytest.fixture(autouse=True)
def _path() -> Iterator[None]:
    before, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - known:
        if name.startswith("users_"):
            del sys.modules[name]


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, name: str, content: bytes = _SOURCE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        entry.size = 0 if link else len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


def answer(module: str) -> int:
    found: int = importlib.import_module(module).ANSWER
    return found


@pytest.mark.parametrize("form", ["a file", "a file by its URI", "a zip", "a tar", "a folder", "a folder by its URI"])
def test_modules_can_be_imported_from(form: str, tmp_path: Path) -> None:
    module = f"users_{form.replace(' ', '_')}"
    match form.split(" ")[1]:
        case "file":
            path = tmp_path / f"{module}.py"
            path.write_bytes(_SOURCE)
        case "zip":
            path = zipped(tmp_path / "code.zip", **{f"{module}/__init__.py": _SOURCE})
        case "tar":
            path = tarred(tmp_path / "code.tar.gz", f"{module}.py")
        case _:
            path = tmp_path / "code"
            (path / module).mkdir(parents=True)
            (path / module / "__init__.py").write_bytes(_SOURCE)
    uri = f"file://{path}" if form.endswith("URI") else str(path)

    digest = install(CodeSpec(uri=uri))
    assert answer(module) == 42
    if path.is_file():
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert Path(str(sys.modules[module].__file__)).parts[:3] == ("/", "tmp", sys.path[0].split("/")[2])


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "users_twice.py").write_bytes(_SOURCE)
    spec = CodeSpec(uri=str(tmp_path / "users_twice.py"))
    first, path = install(spec), list(sys.path)
    assert install(CodeSpec(uri=spec.uri)) == first
    assert sys.path == path


def test_the_digest_of_a_folder_is_of_names_and_content(tmp_path: Path) -> None:
    digests = []
    for number, (name, content) in enumerate([("a.py", b"1"), ("b.py", b"1"), ("a.py", b"2"), ("a.py", b"1")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        (folder / "data.bin").write_bytes(bytes([number]))
        digests.append(install(CodeSpec(uri=str(folder))))
    assert len(set(digests[:3])) == 3
    assert digests[3] == digests[0]


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py"])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_writes_nothing_outside_its_folder(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"code.{form}"
    if form == "zip":
        zipped(path, **{name: _SOURCE})
    else:
        tarred(path, name)
    if form == "tar.gz" and name.startswith("/"):
        install(CodeSpec(uri=str(path)))  # the filter makes it relative
        assert (Path(sys.path[0]) / name[1:]).read_bytes() == _SOURCE
    else:
        with pytest.raises(UserError, match=r"would write .*outside"):
            install(CodeSpec(uri=str(path)))
    assert not Path("/tmp/evil.py").exists()


def test_an_archive_makes_no_link_to_the_outside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would write outside its folder"):
        install(CodeSpec(uri=str(tarred(tmp_path / "code.tgz", "users_link.py", link="/etc/passwd"))))


@pytest.mark.parametrize("name", ["code.zip", "code.tar.gz"])
def test_a_damaged_archive_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(UserError, match=f"{name} is no (zip|tar) archive that can be read"):
        install(CodeSpec(uri=str(tmp_path / name)))


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "code.zip", **{"users_locked.py": _SOURCE})
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1  # encrypted
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"code.zip is no zip archive that can be read: .*encrypted"):
        install(CodeSpec(uri=str(path)))


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_whose_content_is_damaged_is_refused(form: str, tmp_path: Path) -> None:
    source = b"".join(b"A_%d = %d\n" % (number, number**3) for number in range(5000))
    path = tmp_path / f"code.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("users_damaged.py", source)
    else:
        tarred(path, "users_damaged.py", source)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"code.{form} is no (zip|tar) archive that can be read"):
        install(CodeSpec(uri=str(path)))


def test_in_a_process_of_ray_the_modules_go_where_ray_puts_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    path = tmp_path / "users_scratch.py"
    path.write_bytes(_SOURCE)
    install(CodeSpec(uri=str(path)))
    assert [file.name for file in (tmp_path / "ray").glob("*/*")] == [path.name]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"code.uri .*none.py is not there"):
        install(CodeSpec(uri=str(tmp_path / "none.py")))
    with pytest.raises(UserError, match=r"holds no \.py file"):
        install(CodeSpec(uri=str(tmp_path)))


def test_a_digest_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "users_digest.py"
    path.write_bytes(_SOURCE)
    install(CodeSpec(uri=str(path), sha256=hashlib.sha256(_SOURCE).hexdigest()))
    with pytest.raises(UserError, match="has the SHA-256"):
        install(CodeSpec(uri=str(path), sha256="0" * 64))
    with pytest.raises(UserError, match="is a folder; remove it"):
        install(CodeSpec(uri=str(tmp_path), sha256="0" * 64))


def test_another_jobs_module_of_the_same_name_is_not_taken_for_this_jobs(tmp_path: Path) -> None:
    found = []
    for job in ("first", "second", "first", None):
        if job is not None:
            (tmp_path / job).mkdir(exist_ok=True)
            (tmp_path / job / "of_a_job.py").write_text(f"NAME = {job!r}\n")
        install(CodeSpec(uri=str(tmp_path / job)) if job is not None else None)
        try:
            found.append(importlib.import_module("of_a_job").NAME)
        except ModuleNotFoundError:
            found.append("none")
    assert found == ["first", "second", "first", "none"]
