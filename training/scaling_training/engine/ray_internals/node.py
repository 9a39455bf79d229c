"""What Ray sees of this machine, in a container as out of one, without importing torch. Ray is imported when asked."""

from __future__ import annotations


def free_memory_bytes() -> int:
    """Memory that is free, within the container's limit.

    `ray.init` finds that out for itself, but not the node of `ray.cluster_utils`.
    """
    from ray._private.utils import estimate_available_memory

    return int(estimate_available_memory())


def gpus() -> int:
    """GPUs that the driver sees, by their files; public is only what a started cluster has."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    return int(get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators())
