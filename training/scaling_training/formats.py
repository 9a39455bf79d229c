"""Files of ours that another version wrote.

A file that is not there, one that is damaged and one in another format are three things. The last is nobody's to
replace: it may be good work, which only this version cannot read.
"""

from __future__ import annotations

from scaling_training.errors import UserError


class ForeignError(UserError):
    """A file of ours is in a format that this version does not read; it is left as it is."""


def check_format(found: object, ours: int, where: str) -> None:
    """ForeignError unless the file at ``where`` is in the format that this version reads."""
    if found != ours:
        raise ForeignError(
            f"{where} has format {found}, and this version reads format {ours}: go on with the version that wrote it, "
            "or begin a run in a new folder; nothing was changed"
        )
