"""Where files of a data set lie: a local folder or an fsspec URI, listed once and read file by file."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from scaling_training.data.errors import DataLostError, MissingPlaceError
from scaling_training.data.naming import is_hidden, shown
from scaling_training.errors import UserError
from scaling_training.storage import Storage

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as its listing shows it."""

    name: str  # relative POSIX path
    size: int  # bytes
    stamp: str  # changes when the file is written: a store's checksum, else the time of the last change


@dataclass(slots=True)
class Listing:
    """What lies at a place, without what is hidden; all by relative POSIX paths, sorted."""

    files: list[Entry] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # folders with nothing in them; stores have none
    closed: dict[str, str] = field(default_factory=dict)  # folders that cannot be listed, with the reason
    circles: list[str] = field(default_factory=list)  # links to a folder that they lie in, which are not followed


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
        """The files of `listing`."""
        return self.listing().files

    def listing(self) -> Listing:
        """All that is below. UserError when it is no folder or may not be read, MissingPlaceError when it is empty."""
        found = self._walk(self._local) if self._local is not None else self._find()
        found.files.sort(key=lambda entry: entry.name)
        found.empty.sort()
        if found.files or found.circles or {*found.empty, *found.closed} - {""}:
            return found
        self._explain(found.closed.get(""))
        raise MissingPlaceError(
            f"dataset.uri {self.uri} does not exist on this machine, or is empty; correct it, or mount the volume"
        )

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
                f"dataset.uri {self.uri} no longer answers ({reason}, reading {shown(name)}); look at the mount or the "
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

    def _explain(self, reason: str | None) -> None:
        """UserError when the place is a file, or a folder that may not be listed."""
        if self._local is not None and self._local.is_file():
            what = "an archive; unpack it and" if self.uri.lower().endswith(_ARCHIVES) else "a file;"
            raise UserError(f"dataset.uri {self.uri} is {what} name the folder that holds the data")
        if reason is not None and self._local is not None and self._local.exists():
            raise UserError(
                f"dataset.uri {self.uri} cannot be read ({reason}); change its permissions, or name another"
            )

    def _read(self, name: str) -> bytes:
        if self._local is not None:
            # Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
            with open(os.open(self._local / name, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise OSError(errno.EINVAL, "it is no file but a pipe or a device")
                return file.read()
        if self._process != os.getpid():
            self._storage, self._process = Storage(self._storage.root), os.getpid()
        return self._storage.read(name)

    def _walk(self, root: Path) -> Listing:
        found = Listing()
        # Folders to list: the relative name, the path without links, and the paths where links were followed.
        waiting: list[tuple[str, str, tuple[str, ...]]] = [("", os.path.realpath(root), ())]
        while waiting:
            folder, real, left = waiting.pop()
            try:
                with os.scandir(root / folder) as scan:
                    inside = [entry for entry in scan if not is_hidden(entry.name)]
            except OSError as error:
                found.closed[folder] = error.strerror or type(error).__name__
                continue
            if not inside:
                found.empty.append(folder)
            for entry in inside:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if not _is_folder(entry):
                    found.files.append(_entry(name, entry))
                elif not entry.is_symlink():
                    waiting.append((name, f"{real.rstrip('/')}/{entry.name}", left))
                else:
                    target, passed = os.path.realpath(entry.path), (*left, real)
                    # Whoever comes back to a folder does so by a link to it, or to one that it lies in.
                    if any(_lies_in(path, target) for path in passed):
                        found.circles.append(name)
                    else:
                        waiting.append((name, target, passed))
        return found

    def _find(self) -> Listing:
        import fsspec

        system, root = fsspec.core.url_to_fs(self._storage.root, use_listings_cache=False)
        prefix = root.rstrip("/") + "/"
        found = Listing()
        for path, about in system.find(root, detail=True).items():
            name = path.removeprefix(prefix) if path.startswith(prefix) else path.lstrip("/")
            # Some tools make an empty object for each folder.
            if name.endswith("/") or any(map(is_hidden, name.split("/"))):
                continue
            stamp = next((str(about[key]) for key in _STAMPS if about.get(key)), "")
            found.files.append(Entry(name, int(about.get("size") or 0), stamp))
        return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of links in a circle
        return False


def _entry(name: str, entry: os.DirEntry[str]) -> Entry:
    try:
        status = entry.stat()
    except OSError:
        # A link that leads nowhere: reading it will say so.
        return Entry(name, 0, "")
    return Entry(name, status.st_size, str(status.st_mtime_ns))


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


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
