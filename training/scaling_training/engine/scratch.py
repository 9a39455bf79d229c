"""Where a Ray of our own keeps its sockets and logs.

A socket's path has at most 107 bytes, of which Ray's own names take most, and Ray hands the folder to its processes in
command lines that blanks would cut. A temporary folder that does not do (TMPDIR in a home with a long or spaced name)
gives way to the machine's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scaling_training.errors import UserError

PREFIX = "scaling-"
# sockaddr_un.sun_path, less its closing zero; see unix(7).
_SOCKET_PATH = 107
# What Ray and mkdtemp put behind it, with the largest number of a process.
_BEHIND = len(f"/{PREFIX}abcdefgh/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
LONGEST = _SOCKET_PATH - _BEHIND
_SAFE = re.compile(r"^[\w./+@%=:,-]+$", re.ASCII)


def scratch_folder(places: Iterable[str] | None = None) -> Path:
    """A new folder below the first of ``places`` that does, by default TMPDIR and those that machines have.

    UserError when there is none.
    """
    refused = []
    for place in places if places is not None else _usual():
        if len(place.encode(errors="surrogateescape")) > LONGEST:
            refused.append(f"{place} is longer than {LONGEST} bytes, which leaves no room for the path of a socket")
        elif not _SAFE.match(place):
            refused.append(f"{place} has blanks or other characters that Ray does not take")
        else:
            try:
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            except OSError as error:
                refused.append(f"{place} cannot be written ({error.strerror})")
    raise UserError(
        "Ray needs a folder for temporary files: " + "; ".join(refused) + "; set TMPDIR to a short path without blanks"
    )


def _usual() -> list[str]:
    try:
        first = [tempfile.gettempdir()]
    except FileNotFoundError:
        first = []  # none of those that Python knows can be written
    return list(dict.fromkeys([*first, "/tmp", "/var/tmp", "/dev/shm"]))
