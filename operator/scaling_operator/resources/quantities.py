"""How a Ray node divides what its container may use.

Ray's object store lives in /dev/shm, a tmpfs that counts against the container's memory limit. So the limit
is divided: the object store gets its share and /dev/shm exactly that size, a tenth stays free for what nobody
books (interpreters, Ray's own processes), and Ray may schedule the rest. Training moves little through the
object store (gradients travel between the processes themselves), hence its share is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from scaling_api.quantities import gpus_of, parse_quantity
from scaling_api.spec import Resources

MEBIBYTE = 1 << 20

# Ray refuses less than 75 MiB.
MIN_OBJECT_STORE_BYTES = 80 * MEBIBYTE
MAX_OBJECT_STORE_BYTES = 16 << 30
OBJECT_STORE_SHARE = 10  # one in so many bytes
RESERVE_SHARE = 10
# Of a container without any memory figure; Ray then takes the rest from the node's size.
DEFAULT_OBJECT_STORE_BYTES = 256 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What a Ray node announces: see `--num-cpus` and its siblings in `ray start --help`.

    `memory_bytes` is None when the container has neither a limit nor a request: Ray then looks at the machine.
    """

    cpus: int
    gpus: int
    memory_bytes: int | None
    object_store_bytes: int


def node_size(resources: Resources) -> NodeSize:
    """The size of the Ray node in a container with these resources; limits count before requests."""
    cpu = _amount(resources, "cpu")
    memory = _amount(resources, "memory")
    total_bytes = int(memory) if memory is not None else None
    store_bytes = _object_store_bytes(total_bytes)
    free_bytes = None
    if total_bytes is not None:
        free_bytes = max(MEBIBYTE, total_bytes - store_bytes - total_bytes // RESERVE_SHARE)
    return NodeSize(
        cpus=max(1, math.ceil(cpu)) if cpu is not None else 1,
        gpus=gpus_of(resources.limits),
        memory_bytes=free_bytes,
        object_store_bytes=store_bytes,
    )


def threads_per_process(resources: Resources, processes: int) -> int:
    """Compute threads for each of `processes` that share the container's CPUs."""
    cpu = _amount(resources, "cpu")
    return max(1, int(cpu) // processes) if cpu is not None else 1


def _amount(resources: Resources, name: str) -> Decimal | None:
    text = resources.limits.get(name) or resources.requests.get(name)
    return parse_quantity(text) if text is not None else None


def _object_store_bytes(total_bytes: int | None) -> int:
    """In whole mebibytes, so that /dev/shm is never a page smaller than what Ray asks of it."""
    if total_bytes is None:
        return DEFAULT_OBJECT_STORE_BYTES
    share = total_bytes // OBJECT_STORE_SHARE // MEBIBYTE * MEBIBYTE
    return min(MAX_OBJECT_STORE_BYTES, max(MIN_OBJECT_STORE_BYTES, share))
