from __future__ import annotations

from decimal import Decimal

import pytest

from scaling_api.quantities import gpus_of, parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("2", "2"),
        ("500m", "0.5"),
        ("1.5", "1.5"),
        ("3k", "3000"),
        ("1M", "1000000"),
        ("2G", "2000000000"),
        ("1T", "1e12"),
        ("1P", "1e15"),
        ("1Ki", "1024"),
        ("1.5Mi", "1572864"),
        ("4Gi", "4294967296"),
        ("1Ti", "1099511627776"),
        ("1Pi", "1125899906842624"),
    ],
)
def test_numbers(text: str, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "Gi", "4GB", "4 Gi", "1e3i", "m", "4mm", "four", "-"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=f'"{text}" is not a quantity'):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ({"cpu": "8", "memory": "4Gi"}, 0),
        ({"cpu": "8", "nvidia.com/gpu": "2"}, 2),
        ({"amd.com/gpu": "1"}, 1),
        ({"nvidia.com/mig-1g.5gb": "3"}, 3),
        ({"nvidia.com/gpu.shared": "4"}, 4),
        ({"nvidia.com/mig-2g.10gb.shared": "2"}, 2),
        ({"nvidia.com/gpu": "0"}, 0),
        ({"nvidia.com/gpu": "0", "nvidia.com/mig-1g.5gb": "1"}, 1),
        ({"nvidia.com/gpumem": "3000", "rdma/hca": "1", "example.com/migrations": "1"}, 0),
    ],
    ids=str,
)
def test_gpus(limits: dict[str, str], gpus: int) -> None:
    assert gpus_of(limits) == gpus
