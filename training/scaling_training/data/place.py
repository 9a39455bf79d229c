"""Where files of a data set lie: a local folder or an fsspec URI, listed once and read file by file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaling_training.data.errors import DataLostError, MissingPlaceError
from scaling_training.errors import UserError
from scaling_training.storage import Storage


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as its listing shows it."""

    name: str  # relative POSIX path
    size: int  # bytes
    stamp: str  # changes when the file is written: a store's checksum, else the time of the last change


class Place:
    """A folder to read from. It may cross a fork: a store's connections are made anew in each process."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._storage = Storage(uri)
        self._local = self._storage.local_path()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Place], tuple[str]]:
        return (Place, (self._storage.root,))

    def entries(self) -> list[Entry]:
        """All files below, sorted by name, hidden ones left out; MissingPlaceError when there is nothing."""
        found = self._walk(self._local) if self._local is not None else self._find()
        entries = sorted(found, key=lambda entry: entry.name)
        if not entries and not self.is_there():
            raise MissingPlaceError(
                f"dataset.uri {self.uri} does not exist on this machine, or is empty; correct it, or mount the volume"
            )
        return entries

    def read(self, name: str) -> bytes:
        """The whole file; FileNotFoundError when it is not there, DataLostError when the whole place is not."""
        try:
            return self._read(name)
        except UserError:
            raise
        except Exception as error:  # the stores' drivers have exceptions of their own
            if not (_is_away(error) or not self.is_there()):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DataLostError(
                f"dataset.uri {self.uri} no longer answers ({reason}, reading {name}); look at the mount or the "
                "network of this machine"
            ) from error

    def is_there(self) -> bool:
        """Whether the place can be listed and holds something; a mount point without its mount is empty."""
        if self._local is None:
            return self._storage.exists("")
        try:
            with os.scandir(self._local) as found:
                return next(found, None) is not None
        except OSError:
            return False

    def _read(self, name: str) -> bytes:
        if self._local is not None:
            return (self._local / name).read_bytes()
        if self._process != os.getpid():
            self._storage, self._process = Storage(self._storage.root), os.getpid()
        return self._storage.read(name)

    def _walk(self, root: Path) -> Iterator[Entry]:
        for folder, folders, files in os.walk(root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if name.startswith("."):
                    continue
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:
                    # A link that leads nowhere: reading it will say so.
                    yield Entry(Path(path).relative_to(root).as_posix(), 0, "")
                    continue
                relative = os.path.relpath(path, root).replace(os.sep, "/")
                yield Entry(relative, status.st_size, str(status.st_mtime_ns))

    def _find(self) -> Iterator[Entry]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self._storage.root, use_listings_cache=False)
        prefix = root.rstrip("/") + "/"
        for path, about in system.find(root, detail=True).items():
            name = path.removeprefix(prefix) if path.startswith(prefix) else path.lstrip("/")
            if any(part.startswith(".") for part in name.split("/")):
                continue
            stamp = next((str(about[key]) for key in _STAMPS if about.get(key)), "")
            yield Entry(name, int(about.get("size") or 0), stamp)


# What a file system or a connection says that is away; a single damaged file is none of these.
_AWAY = frozenset(
    {
        errno.ESTALE,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ENODEV,
    }
)


def _is_away(error: Exception) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "errno", None) in _AWAY


# What the stores' drivers call a checksum or a time of change, best first.
_STAMPS = (
    "ETag",
    "etag",
    "md5Hash",
    "md5",
    "content_md5",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
