"""Which kind of file does a piece of text come from? Real text that every machine with Python has.

The pieces are cut from the files of Python's standard library and of the packages beside it: Python code, prose
(package descriptions, licences) and tables of RECORD files. A piece is a row of bytes; the model embeds each byte,
looks at neighbours by convolutions, and takes the largest answer over the whole piece.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scaling_training.models.task import ClassificationTask

CLASSES = ("python", "prose", "table")
_PATTERNS = ("*.py", "*.dist-info/METADATA", "*.dist-info/RECORD")
_LEAST = 20  # files of a kind
_PIECES_PER_FILE = 40
_BYTES = 256


def data(samples: int = 6000, length: int = 128) -> dict[str, Any]:
    """Pieces of ``length`` bytes as int64 [samples, length], the same number of each class.

    Files are put into train, validation and test whole, and of equal pieces (licences are often the same) only the
    first is taken, so that nothing is measured on what was trained on.
    """
    stdlib, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    folders = (stdlib, packages, packages)
    seen: set[bytes] = set()
    parts: dict[str, tuple[list[bytes], list[int]]] = {name: ([], []) for name in ("train", "validation", "test")}
    for label, (folder, pattern) in enumerate(zip(folders, _PATTERNS, strict=True)):
        files = sorted(folder.glob(pattern), key=lambda file: hashlib.sha256(file.name.encode()).digest())
        if len(files) < _LEAST:
            raise FileNotFoundError(f"{folder} has {len(files)} files {pattern}, too few to learn from")
        for name, share, chosen in _divided(files):
            pieces, labels = parts[name]
            wanted = round(samples / len(CLASSES) * share)
            found = list(_pieces(chosen, length, wanted, seen))
            pieces += found
            labels += [label] * len(found)
    rows = {
        name: (np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, length).astype(np.int64), np.array(labels))
        for name, (pieces, labels) in parts.items()
    }
    return {**rows, "classes": CLASSES}


def _divided(files: list[Path]) -> Iterator[tuple[str, float, list[Path]]]:
    first, second = round(0.7 * len(files)), round(0.8 * len(files))
    yield "train", 0.7, files[:first]
    yield "validation", 0.1, files[first:second]
    yield "test", 0.2, files[second:]


def _pieces(files: list[Path], length: int, wanted: int, seen: set[bytes]) -> Iterator[bytes]:
    texts = [file.read_bytes()[: _PIECES_PER_FILE * length] for file in files]
    count = 0
    for number in range(_PIECES_PER_FILE):
        for text in texts:
            piece = text[number * length : (number + 1) * length]
            if len(piece) == length and piece not in seen and count < wanted:
                seen.add(piece)
                count += 1
                yield piece


class ByteNetwork(nn.Module):
    """Bytes [n, length] to scores [n, classes]."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_BYTES, width)
        self.layers = nn.Sequential(
            nn.Conv1d(width, 2 * width, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(2 * width, 2 * width, 5, padding=2),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.layers(self.embedding(tokens).transpose(1, 2)).amax(dim=2)
        scores: torch.Tensor = self.head(self.dropout(features))
        return scores


def model(*, classes: int, width: int = 32, label_smoothing: float = 0.0) -> ClassificationTask:
    """What `model.factory` calls; `width` comes from `model.arguments`."""
    return ClassificationTask(ByteNetwork(classes, width), classes, label_smoothing=label_smoothing, head="head")
