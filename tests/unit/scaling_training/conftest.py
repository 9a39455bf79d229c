from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import object_store
from tests.object_store import ObjectStore


@pytest.fixture(scope="session")
def served() -> Iterator[ObjectStore]:
    with object_store.serving() as store:
        yield store


@pytest.fixture
def s3(served: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An object store, with its credentials in the environment."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    return served
