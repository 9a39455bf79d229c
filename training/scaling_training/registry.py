"""Tables from names to records: how data sets, models, optimizers and schedules are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from scaling_training.errors import UserError


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=_Named)


def table(*records: Record) -> Mapping[str, Record]:
    """The records by name; ValueError when two have one name."""
    found = {record.name: record for record in records}
    if len(found) != len(records):
        raise ValueError(f"two records have one name: {[record.name for record in records]}")
    return found


def lookup(records: Mapping[str, Record], name: str, *, field: str) -> Record:
    """The record of this name; UserError names the spec's field and lists what is known."""
    try:
        return records[name]
    except KeyError:
        raise UserError(f"{field} {name} is not known; known are {', '.join(sorted(records))}") from None
