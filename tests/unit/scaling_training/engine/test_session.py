from __future__ import annotations

import pytest

from scaling_training.engine.session import OBJECT_STORE_LEAST_BYTES, object_store_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("memory", "shared", "expected"),
    [
        pytest.param(20 * GIB, 40 * GIB, 6 * GIB, id="a share of the memory"),
        pytest.param(20 * GIB, 10 * GIB, 3 * GIB, id="a share of what can be shared"),
        pytest.param(20 * GIB, GIB // 16, OBJECT_STORE_LEAST_BYTES, id="a container's small default"),
    ],
)
def test_the_object_store_grows_with_the_machine(memory: int, shared: int, expected: int) -> None:
    assert object_store_bytes(memory_bytes=memory, shared_bytes=shared) == expected
