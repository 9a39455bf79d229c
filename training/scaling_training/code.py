"""The user's modules: brought to this machine and put where Python finds them.

A file or archive is fetched into a folder of this process, which is gone when the run ends; a local folder is used
where it is. Archives are unpacked without anything that would land outside their folder, so code from elsewhere can
be imported but overwrites nothing.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from scaling_api.code import CodeSpec
from scaling_training.errors import UserError
from scaling_training.files import digest_of, fetch
from scaling_training.storage import Storage

_FIELD = "code.uri"
_LIMIT = 2**30  # bytes, unpacked: code, not data
_TARS = (".tar.gz", ".tgz", ".tar")
_installed: dict[CodeSpec, tuple[Path, str]] = {}


def install(spec: CodeSpec | None) -> str:
    """Make the modules importable in this process and return their digest (SHA-256 over names and content).

    Those of another job, which this process had before, are taken away: a module of the same name would be taken for
    this job's. None does that alone. A second call for the same spec fetches nothing. Every process that calls a
    factory needs it: the training processes, and the driver where it evaluates. UserError when there is nothing, when
    it is another content than ``spec.sha256`` says, or an archive that is damaged, too large or would write outside its
    folder.
    """
    if spec is None:
        _take_away(keep=None)
        return ""
    if spec not in _installed:
        _installed[spec] = _place(spec)
    folder, digest = _installed[spec]
    _take_away(keep=folder)
    _put_first(folder)
    return digest


def modules(spec: CodeSpec) -> dict[str, bytes]:
    """The Python files that `install` made importable, by their path: what has to be kept to call a factory again."""
    install(spec)
    storage = Storage(str(_installed[spec][0]))
    return {name: storage.read(name) for name in _python_files(storage)}


def install_kept(storage: Storage) -> None:
    """Make modules importable that were kept as `modules` gave them; ``storage`` is their folder.

    UserError when this process has already imported another module of the same name, which would be called instead.
    """
    for name in _python_files(storage):
        module = _module_of(name)
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None and Path(file).is_file() and Path(file).read_bytes() != storage.read(name):
            raise UserError(
                f"{storage.url(name)}: this process has imported another module {module}, {file}; use the two models "
                "in processes of their own"
            )
    _put_first(_folder(storage.url())[0])


def _put_first(folder: Path) -> None:
    # First, so that the job's code wins over the image's; the standard library is imported long before.
    sys.path[:] = [str(folder), *(other for other in sys.path if other != str(folder))]
    importlib.invalidate_caches()


def _take_away(keep: Path | None) -> None:
    for folder in {folder for folder, _ in _installed.values()} - {keep}:
        if str(folder) not in sys.path:
            continue
        sys.path.remove(str(folder))
        # By the job's own files: packages may be installed below its folder, which stay.
        for module in map(_module_of, _python_files(Storage(str(folder)))):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file is not None and Path(file).is_relative_to(folder):
                del sys.modules[module]


def _module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _place(spec: CodeSpec) -> tuple[Path, str]:
    """The folder with the modules, and the digest."""
    uri = spec.uri.rstrip("/")
    name = uri.rpartition("/")[2]
    is_file = name.endswith((".py", ".zip", *_TARS))
    if not is_file:
        if spec.sha256 is not None:
            raise UserError(f"code.sha256 is of a file, and {spec.uri} is a folder; remove it, or give an archive")
        return _folder(uri)
    content = fetch(uri, field=_FIELD, sha256=spec.sha256)
    scratch = _scratch()
    if name.endswith(".py"):
        (scratch / name).write_bytes(content)
    elif name.endswith(".zip"):
        _unzip(content, scratch, uri)
    else:
        _untar(content, scratch, uri)
    return scratch, digest_of(content)


def _folder(uri: str) -> tuple[Path, str]:
    storage = Storage(uri)
    names = sorted(_python_files(storage))
    if not names:
        raise UserError(f"{_FIELD} {uri} holds no .py file; give a folder, a .py file, a .zip or a .tar.gz")
    local = storage.local_path()
    target = local or _scratch()
    digest = hashlib.sha256()
    for name in names:
        content = storage.read(name)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
        if local is None:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return target, digest.hexdigest()


def _python_files(storage: Storage, folder: str = "") -> Iterable[str]:
    for name in storage.names(folder):
        path = f"{folder}/{name}" if folder else name
        if name.endswith(".py"):
            yield path
        elif "." not in name and name != "__pycache__":
            yield from _python_files(storage, path)


def _unzip(content: bytes, target: Path, uri: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_size(sum(entry.file_size for entry in entries), uri)
            for entry in entries:
                path = PurePosixPath(entry.filename)
                # extractall would drop such parts silently, and the module would be missing later.
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                    raise UserError(f"{_FIELD} {uri} would write {entry.filename} outside its folder; pack it anew")
            archive.extractall(target)
    # A RuntimeError for a file that needs a password, NotImplementedError among them for an unknown compression.
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise UserError(f"{_FIELD} {uri} is no zip archive that can be read: {error}") from error


def _untar(content: bytes, target: Path, uri: str) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            _check_size(sum(member.size for member in archive.getmembers()), uri)
            archive.extractall(target, filter="data")
            # To the end of the file, where gzip keeps its checksum.
            while archive.fileobj is not None and archive.fileobj.read(2**20):
                pass
    except tarfile.FilterError as error:
        raise UserError(f"{_FIELD} {uri} would write outside its folder ({error}); pack it anew") from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{_FIELD} {uri} is no tar archive that can be read: {error}") from error


def _check_size(size: int, uri: str) -> None:
    if size > _LIMIT:
        raise UserError(f"{_FIELD} {uri} unpacks to {size:,} bytes; code may have {_LIMIT:,}, data goes elsewhere")


def _scratch() -> Path:
    # Ray kills its processes, so nothing of theirs runs at exit; a Ray of our own takes its folder along.
    folder = Path(tempfile.mkdtemp(prefix="scaling-code-", dir=os.environ.get("RAY_TMPDIR")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
