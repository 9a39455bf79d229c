"""Names of files and folders: which belong to a system and not to the data, and how they are shown.

A name is bytes to a file system. In Python it is text in which a byte that is no UTF-8 is a lone surrogate, so that
it finds its file again; nothing that is written, sent or printed can hold such text, and a line break in a name would
break a log's lines. So what people or files get to see is `shown`.
"""

from __future__ import annotations

# What file managers, archives, file systems and network storage leave in folders, in lower case.
_SYSTEM = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "lost+found",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "#recycle",
        "__pycache__",
    }
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name (without its folders) is no part of the data."""
    return name.startswith(".") or name.lower() in _SYSTEM


def shown(name: str) -> str:
    """The name as it may be printed and written: bytes that are no text, and control characters, as escapes."""
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
