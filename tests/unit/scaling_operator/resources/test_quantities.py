from __future__ import annotations

import pytest

from scaling_api.spec import Resources
from scaling_operator.resources.quantities import (
    DEFAULT_OBJECT_STORE_BYTES,
    MAX_OBJECT_STORE_BYTES,
    MIN_OBJECT_STORE_BYTES,
    NodeSize,
    node_size,
)

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("requests", "limits", "size"),
    [
        pytest.param({}, {"memory": "4Gi"}, (1, 0, 4 * GIB - 409 * MIB - 4 * GIB // 10, 409 * MIB), id="limit"),
        pytest.param({"memory": "4Gi"}, {"memory": "8Gi"}, None, id="limit before request"),
        pytest.param({"memory": "400Mi"}, {}, (1, 0, 280 * MIB, MIN_OBJECT_STORE_BYTES), id="request, smallest store"),
        pytest.param({}, {}, (1, 0, None, DEFAULT_OBJECT_STORE_BYTES), id="nothing said"),
        pytest.param({"cpu": "100m"}, {}, (1, 0, None, DEFAULT_OBJECT_STORE_BYTES), id="a tenth of a cpu is one"),
        pytest.param({"cpu": "1"}, {"cpu": "2500m"}, (3, 0, None, DEFAULT_OBJECT_STORE_BYTES), id="cpus rounded up"),
        pytest.param({}, {"nvidia.com/gpu": "4"}, (1, 4, None, DEFAULT_OBJECT_STORE_BYTES), id="gpus"),
        pytest.param({}, {"amd.com/gpu": "1"}, (1, 1, None, DEFAULT_OBJECT_STORE_BYTES), id="another make"),
        pytest.param({}, {"nvidia.com/mig-1g.5gb": "2"}, (1, 2, None, DEFAULT_OBJECT_STORE_BYTES), id="slices"),
        pytest.param({}, {"nvidia.com/gpu.shared": "2"}, (1, 2, None, DEFAULT_OBJECT_STORE_BYTES), id="shares"),
    ],
)
def test_node_size(requests: dict[str, str], limits: dict[str, str], size: tuple[int, ...] | None) -> None:
    expected = NodeSize(*size) if size is not None else node_size(Resources(limits=limits))
    assert node_size(Resources(requests=requests, limits=limits)) == expected


@pytest.mark.parametrize("memory", ["200Mi", "512Mi", "1Gi", "3000000000", "64Gi", "2Ti"])
def test_store_reserve_and_memory_fit_into_the_limit(memory: str) -> None:
    size = node_size(Resources(limits={"memory": memory}))
    total = node_size_total(memory)
    assert size.memory_bytes is not None
    assert size.memory_bytes + size.object_store_bytes + total // 10 <= total
    assert size.object_store_bytes % MIB == 0
    assert MIN_OBJECT_STORE_BYTES <= size.object_store_bytes <= MAX_OBJECT_STORE_BYTES


def node_size_total(memory: str) -> int:
    units = {"Mi": MIB, "Gi": GIB, "Ti": GIB << 10}
    unit = memory[-2:]
    return int(memory[:-2]) * units[unit] if unit in units else int(memory)
