"""A folder that outlives the job: a local path or an fsspec URI, behind the few operations that we need.

All writes are whole files, because object stores know nothing else. A reader sees the old content or the
new one, never a part: locally by a temporary file, fsync and rename; in an object store because a PUT is
atomic. `create` is what fencing stands on: of several that create one name, exactly one succeeds. Locally
that is a hard link of the finished file; S3 and GCS do it by a conditional PUT (fsspec's mode "create");
a store whose driver lacks it is checked before the PUT, which leaves a gap of one round trip.

fsspec is imported only for URIs, so a local run does not pay for it.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from scaling_api.redaction import redacted
from scaling_training.errors import UserError

Result = TypeVar("Result")

# What provides each scheme's driver, for the sentence that a user sees when it is missing.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# Bytes a second that a store usually takes or gives, for whoever says how long it may take; see the watchdog's factor.
USUAL_RATE = 100e6
# Within this much the first question to a storage is answered, with the retries of its driver.
ANSWER_S = 60.0
# So much must be free before anything begins: an empty file finds room on a full disk.
_PROBE_BYTES = 64 * 1024
_TEMPORARY = ".tmp-"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
# How a store answers a conditional PUT that came second: in AWS's words, or as an HTTP status.
_CAME_SECOND = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


class StorageAwayError(Exception):
    """A storage does not answer; at another time it may."""


class Storage:
    """A folder at a local path or an fsspec URI. Names are relative POSIX paths below it.

    Reading a name that is not there raises FileNotFoundError; a place that cannot be written, a missing
    driver package and a full disk raise UserError. Only the root is pickled.
    """

    def __init__(self, root: str) -> None:
        # A relative path would mean another folder in a process that was started elsewhere.
        self.root = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
        self._backend: _Local | _Remote = _open(self.root)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return (Storage, (self.root,))

    def __repr__(self) -> str:
        return f"Storage({redacted(self.root)!r})"

    def read(self, name: str) -> bytes:
        """The whole file."""
        return self._backend.read(_relative(name))

    def write(self, name: str, data: bytes | bytearray) -> None:
        """Replace the file atomically and durably; its folders are made."""
        self._backend.write(_relative(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write the file only if there is none; False when there is one already."""
        return self._backend.create(_relative(name), data)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly in ``folder``, sorted; none when it does not exist."""
        return sorted(self._backend.names(_relative(folder)))

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return self._backend.exists(_relative(name))

    def delete(self, name: str, recursive: bool = False) -> None:
        """Remove a file, or with ``recursive`` a folder and all in it; one that is not there is no error."""
        self._backend.delete(_relative(name), recursive)

    def size(self, name: str) -> int:
        """The file's size in bytes."""
        return self._backend.size(_relative(name))

    def child(self, folder: str) -> Storage:
        """The storage whose root is this folder."""
        return Storage(self.url(folder))

    def url(self, name: str = "") -> str:
        """Where ``name`` lies, as a person or another program would address it."""
        relative = _relative(name)
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def local_path(self, name: str = "") -> Path | None:
        """The path of ``name`` when this storage is a local folder, else None."""
        return self._backend.local_path(_relative(name))

    def check_writable(self) -> None:
        """Raise UserError unless a file can be written here; better now than after an hour of training.

        StorageAwayError when it does not answer.
        """
        probe = f".writable-{uuid.uuid4().hex}"

        def write() -> None:
            self.write(probe, bytes(_PROBE_BYTES))
            self.delete(probe)

        self.answered(write)

    def answered(self, ask: Callable[[], Result], within_s: float = ANSWER_S) -> Result:
        """What ``ask``, which asks this storage, returns.

        StorageAwayError when it raises what is nobody's mistake, and when nothing comes within so many seconds: a mount
        whose server is away blocks for ever.
        """
        answers: list[Result] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                answers.append(ask())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="storage", daemon=True)
        thread.start()
        thread.join(within_s)
        if answers:
            return answers[0]
        error = errors[0] if errors else TimeoutError(f"nothing within {within_s:.0f} s")
        if isinstance(error, UserError):
            raise error
        why = str(error) or type(error).__name__
        raise StorageAwayError(
            redacted(f"storage {self.url()} does not answer ({why}): look at its mount or endpoint, and at the network")
        ) from error


def _relative(name: str) -> str:
    """``name`` in normal form; a name that leaves the folder is our own mistake."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a relative path below the storage")
    return "" if path == PurePosixPath(".") else str(path)


def _open(root: str) -> _Local | _Remote:
    scheme, separator, rest = root.partition("://")
    if not separator:
        return _Local(Path(root), root)
    if scheme == "file":
        return _Local(Path("/" + rest.lstrip("/")), root)
    return _Remote(scheme, root)


class _Local:
    def __init__(self, root: Path, shown: str) -> None:
        self._root = root.absolute()
        self._shown = shown

    def local_path(self, name: str) -> Path:
        return self._root / name

    def read(self, name: str) -> bytes:
        with _explained(self._shown):
            return self.local_path(name).read_bytes()

    def write(self, name: str, data: bytes | bytearray) -> None:
        self._place(name, data, lambda temporary, target: os.replace(temporary, target))

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._place(name, data, _link)
        except FileExistsError:
            return False
        return True

    def _place(self, name: str, data: bytes | bytearray, publish: Callable[[Path, Path], None]) -> None:
        target = self.local_path(name)
        temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        with _explained(self._shown):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                publish(temporary, target)
                _sync_folder(target.parent)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()

    def names(self, name: str) -> Iterator[str]:
        try:
            entries = os.listdir(self.local_path(name))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        return (entry for entry in entries if not entry.startswith(_TEMPORARY))

    def exists(self, name: str) -> bool:
        return self.local_path(name).exists()

    def delete(self, name: str, recursive: bool) -> None:
        path = self.local_path(name)
        with _explained(self._shown), suppress(FileNotFoundError):
            if recursive and path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def size(self, name: str) -> int:
        return self.local_path(name).stat().st_size


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: exclusive still, but a reader may see the file half written.
        with open(target, "xb") as file:
            file.write(temporary.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse to sync a folder; they make the rename durable by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn what only the user can mend into a sentence; leave the rest (a store that is away) as it is."""
    try:
        yield
    except FileExistsError:
        raise
    except NotADirectoryError as error:
        raise UserError(f"storage {shown} is not usable: {error.filename} is not a folder") from error
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(f"storage {shown} is full: free some space or name another place") from error
        if error.errno in _REFUSED or isinstance(error, PermissionError):
            raise UserError(
                f"storage {shown} refuses access ({error.strerror or error}); "
                "name a place that this user may read and write, or correct its permissions or credentials"
            ) from error
        raise
    except Exception as error:
        # The stores' own libraries say so with exceptions of theirs, which are not to be imported here.
        if type(error).__name__ in _NO_CREDENTIALS:
            raise _without_credentials(shown, error) from error
        raise


def _without_credentials(shown: str, error: Exception) -> UserError:
    return UserError(
        f"storage {shown} needs credentials ({error}); name a Secret that holds them in "
        "spec.storage.secretRef, or set them in the environment"
    )


class _Remote:
    def __init__(self, scheme: str, root: str) -> None:
        self._shown = root
        package = _PACKAGES.get(scheme)
        try:
            import fsspec

            # Listings are cached per process by default: another process's checkpoint would stay unseen.
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except ImportError as error:
            needed = package or "the package that provides it"
            raise UserError(f"storage {root}: {scheme}:// needs a package that is missing: pip install {needed}") from (
                error
            )
        except ValueError as error:
            if scheme in fsspec.available_protocols():
                # Azure's driver wants an account before the first request.
                raise _without_credentials(root, error) from error
            raise UserError(f"storage {root}: {scheme}:// is not known; use s3://, gs://, az:// or a path") from error

    def local_path(self, name: str) -> None:
        return None

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def read(self, name: str) -> bytes:
        with _explained(self._shown):
            data: bytes = self._fs.cat_file(self._path(name))
        return data

    def write(self, name: str, data: bytes | bytearray) -> None:
        self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> bool:
        if self.exists(name):
            return False
        try:
            self._put(name, data, "create")
        except FileExistsError:
            return False
        except Exception as error:
            if _came_second(error):
                return False
            raise
        return True

    def _put(self, name: str, data: bytes | bytearray, mode: str) -> None:
        try:
            with _explained(self._shown):
                self._fs.pipe_file(self._path(name), data, mode=mode)
        except FileNotFoundError as error:
            raise UserError(f"storage {self._shown} does not exist; create the bucket or name another") from error

    def names(self, name: str) -> Iterator[str]:
        try:
            with _explained(self._shown):
                entries = self._fs.ls(self._path(name), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        # An object store may list the folder's own marker among its content.
        found = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != self._path(name)}
        return iter(found)

    def exists(self, name: str) -> bool:
        with _explained(self._shown):
            return bool(self._fs.exists(self._path(name)))

    def delete(self, name: str, recursive: bool) -> None:
        with _explained(self._shown), suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=recursive)

    def size(self, name: str) -> int:
        with _explained(self._shown):
            return int(self._fs.size(self._path(name)))


def _came_second(error: BaseException) -> bool:
    """Whether a store refused a conditional PUT because the name was taken meanwhile."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(error, "code", None)
    return str(code) in _CAME_SECOND
