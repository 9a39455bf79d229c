"""What the folders of an image-folder mean: splits, classes, or a mistake. Pure.

Tools export splits under many names (train, Training, train_set, seg_train beside seg_test; val, valid, validation,
dev; test, testing), often below one more folder. Taken for classes they would train without a word, so:

1. A folder that is alone and holds only folders is passed through.
2. Where a folder is called train in any spelling, its siblings are splits; one that is neither a split nor without
   images is an error, for nobody can tell whether train is a class.
3. Elsewhere folders are classes, unless their own folders repeat: then they are splits of unknown names, an error.
4. A class folder without an image is an error: a class that vanishes makes the others look good.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import PurePosixPath

from scaling_training.data.naming import shown
from scaling_training.data.place import Entry, Listing
from scaling_training.data.spelling import FILLING, split_of, splits_of
from scaling_training.errors import UserError

# What image folders are searched for: pictures by rows of pixels that PIL decodes by itself. The list is fixed, so
# that machines with other builds of PIL see the same data; what one cannot decode, it says.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".jp2", ".j2k", ".jpf", ".jpx"}
    | {".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".tga", ".ico", ".qoi", ".pcx"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
_SUCH = "such as .jpg, .png, .webp or .tif"
PARTS = ("train", "validation", "test")
_NAMED = 5  # folders that a sentence names

Folders = Mapping[str, Mapping[str, Sequence[Entry]]]  # part, class, files


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The files by part and class, and what a person should know of how they were found."""

    folders: Folders
    places: Mapping[str, str]  # of each part its folder, relative; "." for the place itself
    left_alone: tuple[str, ...] = ()  # in words


def arrange(listing: Listing, *, uri: str) -> Arrangement:
    """What the listing's folders mean; UserError for what cannot be told, or would leave something out."""
    root = _tree(listing)
    if not root.holds_images:
        raise UserError(
            f"dataset.uri {uri} holds no image ({_SUCH}){_instead(root)}; it needs a folder per "
            "class, perhaps below train, validation and test"
        )
    reader = _Reader(uri)
    top = reader.passed_through(root)
    splits = reader.splits(top)
    if splits is None:
        reader.check_no_splits(top)
        splits = {"train": top}
    else:
        splits = {part: reader.within_split(folder) for part, folder in splits.items()}
    folders = {part: reader.classes(splits[part], part) for part in PARTS if part in splits}
    _check_alike(folders, uri)
    places = {part: shown(folder.name) or "." for part, folder in splits.items()}
    beside = [name for name, folder in (root.folders | top.folders).items() if not folder.holds_images]
    return Arrangement(folders, places, _left_alone(splits, beside, listing.circles))


@dataclass(slots=True)
class _Folder:
    """A folder and what lies in it."""

    name: str  # relative to the place; "" for the place itself
    images: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)
    closed: str = ""  # why it cannot be listed
    holds_images: bool = False  # it or a folder in it

    def all_images(self) -> Iterator[Entry]:
        yield from self.images
        for folder in self.folders.values():
            yield from folder.all_images()

    def all_others(self) -> Iterator[Entry]:
        yield from self.others
        for folder in self.folders.values():
            yield from folder.all_others()

    def all_closed(self) -> Iterator[_Folder]:
        if self.closed:
            yield self
        for folder in self.folders.values():
            yield from folder.all_closed()

    @property
    def holders(self) -> dict[str, _Folder]:
        """The folders in it that hold images."""
        return {name: folder for name, folder in self.folders.items() if folder.holds_images}


def _tree(listing: Listing) -> _Folder:
    root = _Folder("")
    known = {"": root}

    def at(path: str) -> _Folder:
        if path not in known:
            above, _, name = path.rpartition("/")
            known[path] = at(above).folders.setdefault(name, _Folder(path))
        return known[path]

    for entry in listing.files:
        folder = at(entry.name.rpartition("/")[0])
        if PurePosixPath(entry.name).suffix.lower() not in SUFFIXES:
            folder.others.append(entry)
            continue
        folder.images.append(entry)
        path = folder.name
        while not known[path].holds_images:
            known[path].holds_images = True
            path = path.rpartition("/")[0]
    for path in listing.empty:
        at(path)
    for path, reason in listing.closed.items():
        at(path).closed = reason
    return root


class _Reader:
    """Reads the folders of one place; its uri is for the sentences."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def passed_through(self, folder: _Folder) -> _Folder:
        """The folder, or the one below it that it only wraps."""
        while not folder.images and len(folder.holders) == 1 and not splits_of(list(folder.folders)):
            (only,) = folder.holders.values()
            # Beside other folders, which may be classes without a picture, it wraps only what are splits for certain.
            alone = len(folder.folders) == 1
            if only.images or not (alone or "train" in splits_of(list(only.folders)).values()):
                break
            folder = only
        return folder

    def splits(self, folder: _Folder) -> dict[str, _Folder] | None:
        """The splits that lie in the folder by part; None when they are not splits."""
        named = splits_of(list(folder.folders))
        others = [name for name in folder.holders if name not in named]
        if "train" not in named.values():
            self._check_without_train(folder, named, others)
            return None
        train = next(name for name, part in named.items() if part == "train")
        if others:
            raise UserError(
                f"{self._at(folder)} {_listed(named)} lie{'s' if len(named) == 1 else ''} beside {_listed(others)}: "
                "are these splits or classes? For splits, leave only train, validation and test there; if "
                f"{shown(train)} is a class, move the folders of all classes into a folder train"
            )
        if folder.images:
            raise UserError(
                f"dataset.uri {self._uri}: {shown(folder.images[0].name)} lies beside {_listed(named)} and in no "
                "class's folder; move it into one, or remove it"
            )
        found: dict[str, _Folder] = {}
        for name, part in named.items():
            if part in found:
                raise UserError(
                    f"{self._at(folder)} both {shown(PurePosixPath(found[part].name).name)} and {shown(name)} are "
                    f"{_CALLED[part]} data; keep one of them"
                )
            found[part] = folder.folders[name]
        for part, split in found.items():
            if not split.holds_images:
                raise UserError(f"dataset.uri {self._uri}: {self._without_images(split, f'the folder of {part} data')}")
        return found

    def _check_without_train(self, folder: _Folder, named: Mapping[str, str], others: Sequence[str]) -> None:
        # "valid" beside "invalid", and people called Dev, are classes; so only what can be nothing else counts.
        certain = [
            name
            for name in named
            if folder.folders[name].holders or not (others and name.casefold() in ("valid", "dev"))
        ]
        if certain:
            beside = f" beside {_listed(others)}" if others else ""
            raise UserError(
                f"{self._at(folder)} {_listed(certain)} lie{'s' if len(certain) == 1 else ''}{beside}, but there is no "
                "folder train: put the folders of the training data's classes into one, or rename what is a class"
            )

    def check_no_splits(self, folder: _Folder) -> None:
        """UserError when the classes hold splits, or look like splits because they hold the same folders."""
        holders = folder.holders
        for name, holder in holders.items():
            if "train" in splits_of(list(holder.folders)).values():
                raise UserError(
                    f"{self._at(folder)} {shown(name)} holds the splits {_listed(list(holder.folders))}: splits come "
                    "first and classes below them, as train/rose; or name by dataset.uri the folder of the splits"
                )
        inner = [(name, names) for name, holder in holders.items() if len(names := _canonical(holder.holders)) > 1]
        for (name, ours), (rival, theirs) in combinations(inner, 2):
            common = sorted(ours & theirs)
            if len(common) > 1:
                raise UserError(
                    f"{self._at(folder)} {shown(name)} and {shown(rival)} hold the same folders ({_listed(common)}): "
                    "if they are splits, call them train, validation and test; if they are classes, put them into a "
                    "folder train, or their images directly into them"
                )

    def within_split(self, split: _Folder) -> _Folder:
        """The folder that holds the split's classes: itself, or one that it only wraps; train/train, train/images."""
        while not split.images and len(split.folders) == 1:
            (name, only), own = next(iter(split.folders.items())), split_of(PurePosixPath(split.name).name)
            wraps = name.casefold() in FILLING or (split_of(name) is not None and split_of(name) == own)
            if only.images or not only.holders or not wraps:
                break
            split = only
        nested = [name for name, part in splits_of(list(split.folders)).items() if part and split.folders[name].holders]
        if nested:
            raise UserError(
                f"{self._at(split)} {_listed(nested)} lie{'s' if len(nested) == 1 else ''}: a split in a split; move "
                "the folders of the classes up, or remove one of the two"
            )
        return split

    def classes(self, folder: _Folder, part: str) -> dict[str, list[Entry]]:
        """The files of each class in the folder, in the order of their names."""
        if folder.images:
            raise UserError(
                f"dataset.uri {self._uri}: {shown(folder.images[0].name)} lies in no class's folder; move it into one"
            )
        found: dict[str, list[Entry]] = {}
        for name, held in folder.folders.items():
            for closed in held.all_closed():
                raise UserError(
                    f"dataset.uri {self._uri}: {shown(closed.name)} cannot be read ({closed.closed}); change its "
                    "permissions, or remove it"
                )
            if not held.holds_images:
                raise UserError(f"dataset.uri {self._uri}: {self._without_images(held, 'the class folder')}")
            # macOS decomposes accents, and an archive carries that to where they are not: one name, two spellings.
            found.setdefault(unicodedata.normalize("NFC", name), []).extend(held.all_images())
        return {name: sorted(found[name], key=lambda entry: entry.name) for name in sorted(found)}

    def _without_images(self, folder: _Folder, what: str) -> str:
        name = shown(folder.name)
        for closed in folder.all_closed():
            return f"{what} {name} cannot be read ({closed.closed}); change its permissions, or remove it"
        if not any(folder.all_others()):
            return f"{what} {name} is empty; put images into it, or remove it"
        return (
            f"{what} {name} holds no image{_instead(folder)}; convert them to a kind that is read, {_SUCH}, "
            f"or remove the folder"
        )

    def _at(self, folder: _Folder) -> str:
        return f"dataset.uri {self._uri}:{f' in {shown(folder.name)},' if folder.name else ''}"


_CALLED = {"train": "training", "validation": "validation", "test": "test"}


def _check_alike(folders: Folders, uri: str) -> None:
    """UserError when a split has a class that training has not."""
    train = folders["train"]
    for part in ("validation", "test"):
        for name in sorted(set(folders.get(part, ())) - set(train)):
            alike = [known for known in train if known.strip().casefold() == name.strip().casefold()]
            hint = f" (train has '{shown(alike[0])}': write both alike)" if alike else ""
            called = f"'{shown(name)}'" if alike else shown(name)
            raise UserError(
                f"dataset.uri {uri}: {part} has a class {called} that train has not{hint}; add it there or remove it"
            )


def _left_alone(splits: Mapping[str, _Folder], beside: Sequence[str], circles: Sequence[str]) -> tuple[str, ...]:
    """What is no part of the data set and lies in or beside it, in words."""
    suffixes = Counter(_suffix(entry) for part in splits.values() for entry in part.all_others())
    told = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common(_NAMED)]
    if circles:
        told.append(f"links to a folder that they lie in ({_listed(circles)})")
    if beside:
        told.append(f"the folder{'s' if len(beside) > 1 else ''} {_listed(beside)}")
    return tuple(told)


def _suffix(entry: Entry) -> str:
    return shown(PurePosixPath(entry.name).suffix.lower()) or "without an extension"


def _instead(folder: _Folder) -> str:
    suffixes = Counter(map(_suffix, folder.all_others()))
    if not suffixes:
        return ""
    return f", but {', '.join(f'{count:,} {suffix}' for suffix, count in suffixes.most_common(_NAMED))}"


def _canonical(names: Mapping[str, object]) -> set[str]:
    return {unicodedata.normalize("NFC", name).casefold() for name in names}


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    named = sorted(map(shown, names))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
