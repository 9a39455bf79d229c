"""How tools and people spell the folders of the three splits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What may stand beside such a word without changing what it means.
FILLING = frozenset(
    {"set", "data", "dataset", "split", "part", "subset", "folder", "dir", "sample", "samples", "v"}
    | {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"}
)
_FILLING = "|".join(sorted(FILLING, key=len, reverse=True))
_COMPOUND = re.compile(f"(?:{_FILLING})?({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:{_FILLING})?")


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Which split a folder's name says, and the words beside that mean something else; None when it says none.

    "Training_Set2" is ("train", ()), "seg_test" is ("test", ("seg",)).
    """
    found, beside = [], []
    for word in _words(name):
        compound = _COMPOUND.fullmatch(word)
        if compound is not None:
            found.append(_WORDS[compound[1]])
        elif word not in FILLING:
            beside.append(word)
    return (found[0], tuple(beside)) if len(found) == 1 else None


def splits_of(names: Sequence[str]) -> dict[str, str]:
    """The split that each of these siblings is, of those that are one.

    A name with another word counts where a sibling has the same word with another split: seg_train and seg_test.
    """
    said = {name: found for name in names if (found := split_of(name)) is not None}
    kinds: dict[tuple[str, ...], set[str]] = {}
    for part, beside in said.values():
        kinds.setdefault(beside, set()).add(part)
    return {name: part for name, (part, beside) in said.items() if not beside or len(kinds[beside]) > 1}


def _words(name: str) -> Iterator[str]:
    for word in re.findall(r"[^\W\d_]+", name):
        if _COMPOUND.fullmatch(word.casefold()):
            yield word.casefold()
        else:
            yield from map(str.casefold, re.findall(r"[A-Z]?[^\WA-Z]+|[A-Z]+(?![a-z])", word))
