"""How the work of a step is divided among processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scaling_api.base import Model


class Parallelism(Model):
    """How the work of a step is divided."""

    data: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Data-parallel training processes. Absent: all slots of the workers, elastically between their min "
        "and max; without a cluster one per GPU, or one.",
    )
