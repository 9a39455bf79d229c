"""Is there a head that workers can come to?

Workers come once the head has its node. Sooner they would hold nodes, with GPUs maybe, for a head that may never be
placed, or that waits for just these. A head on its node whose container is kept from starting (its image cannot be
pulled, a Secret is missing) gets no further workers, and after LET_GO_AFTER_S those that are there are let go of: they
come again when it starts. What is merely slow, a large image say, is waited for by all of them, as they have the same
to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api.driver import CONTAINER_DRIVER

from .failure import obstruction
from .types import PodView

# One failed pull is often followed by one that works, and to start workers anew costs more than this.
LET_GO_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Whether workers may come, and stay; time alone may change that after `look_again_s`."""

    may_come: bool
    may_stay: bool = True
    look_again_s: float | None = None


def place_for_workers(head: PodView | None, *, now: float) -> Place:
    """What the attempt's head, None while there is none, means for its workers."""
    # Not every kubelet says since when a pod has its node; one that runs has it.
    if head is None or (head.scheduled_at is None and head.phase == "Pending"):
        return Place(may_come=False, may_stay=False)
    driver = head.containers.get(CONTAINER_DRIVER)
    has_started = driver is not None and driver.state != "waiting"
    # Once its driver has started, what keeps another container (an injected one, say) is no matter of the workers.
    if has_started or obstruction(head) is None or head.obstructed_since is None:
        return Place(may_come=True)
    left_s = head.obstructed_since + LET_GO_AFTER_S - now
    return Place(may_come=False, may_stay=left_s > 0, look_again_s=left_s if left_s > 0 else None)
