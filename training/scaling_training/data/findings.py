"""What a look at a data set finds, as values; `analysis` looks, `proposals` draws the conclusions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from scaling_training.data.leakage import Leakage


@dataclass(frozen=True, slots=True)
class Proposal:
    """Fields of the dataset section, and why."""

    fields: dict[str, Any]
    reason: str


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Samples of a class."""

    name: str
    train: int
    validation: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Samples that could not be read among those that were looked at."""

    checked: int
    of: int
    count: int
    files: tuple[tuple[str, str], ...]  # name and reason, the first ones


@dataclass(frozen=True, slots=True)
class Pixels:
    """Training pixels, from 0 to 1, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    median: tuple[float, ...]
    quartiles: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Training pictures before they are resized: smallest, quartiles and largest."""

    width: tuple[float, ...]
    height: tuple[float, ...]
    median_shorter_side: float


@dataclass(frozen=True, slots=True)
class Blank:
    """Training pictures of one colour alone, among those that were looked at."""

    checked: int
    count: int
    samples: tuple[str, ...]  # the first ones
    classes: tuple[str, ...]  # those of which no other picture was seen


@dataclass(frozen=True, slots=True)
class Contradictions:
    """Training samples that are equal and of different classes."""

    count: int  # samples that another one contradicts
    pairs: tuple[tuple[str, str, str, str], ...]  # sample, its label, the equal sample, its label; the first ones


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """Labels that the nearest pictures contradict; see neighbours for the rule and its limits."""

    checked: int
    agreement: float
    estimate: float  # share of the labels
    suspects: tuple[tuple[str, str, str], ...]  # sample, its label, the neighbours' label; the first ones


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found. None: it does not apply (no images) or could not be told."""

    dataset: str
    fingerprint: str
    classes: tuple[ClassCount, ...]
    imbalance: float  # training samples of the largest class over those of the smallest
    unreadable: Unreadable
    leakage: Leakage
    contradictions: Contradictions
    blank: Blank | None
    label_noise: LabelNoise | None
    pixels: Pixels | None
    sizes: Sizes | None
    proposals: tuple[Proposal, ...] = ()
    warnings: tuple[str, ...] = ()  # what a person should read, in short sentences, the gravest first

    def to_json(self) -> dict[str, Any]:
        """As JSON values, names in camelCase."""
        value: dict[str, Any] = _camel(asdict(self))
        return value


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {to_camel(key): _camel(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_camel(item) for item in value]
    return value
