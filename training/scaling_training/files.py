"""Files of the user's: read whole, from a path or an object store, and told apart by their content."""

from __future__ import annotations

import hashlib
import os

from scaling_training.errors import UserError
from scaling_training.storage import Storage


def fetch(place: str, *, field: str, sha256: str | None = None) -> bytes:
    """The content of the file at a path or an fsspec URI. ``field`` is the spec's field that says the place.

    UserError when it is not there or cannot be read, and when its SHA-256 is not the given one.
    """
    folder, _, name = place.rpartition("/")
    if "://" not in place:
        folder, name = os.path.split(os.path.abspath(os.path.expanduser(place)))
    try:
        content = Storage(folder).read(name)
    except FileNotFoundError as error:
        raise UserError(f"{field} {place} is not there; every process of the job must be able to read it") from error
    except OSError as error:
        raise UserError(f"{field} {place} cannot be read: {error}") from error
    digest = digest_of(content)
    if sha256 is not None and digest != sha256:
        raise UserError(f"{field} {place} has the SHA-256 {digest}, not {sha256} as the spec says")
    return content


def digest_of(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
