"""A user's code, in the pods: a training that goes on for as long as a test wants it to, and costs next to nothing.

It is put into the storage and loaded from there, so it imports nothing of the tests. Files beside it tell when to go
on: without `hurry` every step takes most of a second; without `go` the test part, once there is a trained model, gives
nothing away, and the evaluation has to wait.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from scaling_training.models.task import ClassificationTask

STORAGE = Path("/scaling/storage")
STEP_S = 0.3


class Paced(torch.nn.Module):
    """A small network that takes its time while it trains."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1024, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and not (STORAGE / "hurry").exists():
            time.sleep(STEP_S)
        scores: torch.Tensor = self.layers(images)
        return scores


class HeldUp:
    """Samples that cannot be read between the end of training and the word to go on."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images = images
        self.targets = labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        trained = any(STORAGE.glob("*/*/ledger/*/train.json"))
        while trained and not (STORAGE / "go").exists():
            time.sleep(0.1)
        return self._images[index], self.targets[index]


def model(classes: int) -> ClassificationTask:
    """The factory of the model."""
    return ClassificationTask(Paced(classes), classes)


def data() -> dict[str, object]:
    """The factory of the data: seven steps an epoch of digits, in batches of 128."""
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8)[:, None], digits.target
    return {
        "train": (images[:896], labels[:896]),
        "validation": (images[896:1152], labels[896:1152]),
        "test": HeldUp(images[1152:], labels[1152:]),
        "classes": [str(digit) for digit in range(10)],
    }
