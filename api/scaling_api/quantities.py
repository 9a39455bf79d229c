"""Kubernetes quantities: "500m", "2", "4Gi"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from scaling_api.scalars import QUANTITY

_FORM = re.compile(QUANTITY.regex)
_SUFFIXES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for, in its base unit (cores, bytes, pieces).

    Raises ValueError for what the spec's pattern does not let through.
    """
    if not _FORM.fullmatch(text):
        raise ValueError(QUANTITY.message(text))
    number = text.rstrip("".join(_SUFFIXES))
    return Decimal(number) * _SUFFIXES[text[len(number) :]]


def gpus_of(limits: Mapping[str, str]) -> int:
    """How many GPUs a container with these limits has: what of them names GPUs first, and is not 0.

    A whole one (nvidia.com/gpu, amd.com/gpu), a slice (nvidia.com/mig-1g.5gb), or a share of either that the device
    plugin calls so (nvidia.com/gpu.shared). KubeRay counts in the same way, but for shares.
    """
    counts = (int(parse_quantity(amount)) for name, amount in limits.items() if _names_gpus(name))
    return next((count for count in counts if count), 0)


def _names_gpus(resource: str) -> bool:
    name = resource.removesuffix(".shared")
    return name.endswith("gpu") or "/mig-" in name
