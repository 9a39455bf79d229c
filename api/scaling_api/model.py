"""The section that says which network is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule


class ModelSpec(Model):
    """The network to train."""

    name: Literal["small-cnn"] = Field(
        description="small-cnn: convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512."
    )
    width: Annotated[float, Field(gt=0, le=8)] = Field(
        1.0, description="Multiplier of all channel counts, at least 0.125."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        # A rule, because the API server cuts a fractional lower bound down to a whole number.
        Rule(
            "self.width >= 0.125",
            lambda self: self.width >= 0.125,
            "width {width} leaves too few channels; make it at least 0.125",
            field="width",
        ),
    )
