"""The section that says on what data a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scaling_api.base import Model


class Augmentation(Model):
    """Random affine changes of the training images, drawn anew for each sample and epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Largest rotation, degrees, either way.")
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Largest shift along each axis, as a fraction of the image."
    )
    zoom: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="Largest change of scale: 0.1 draws from 0.9 to 1.1."
    )
    shear: Annotated[float, Field(ge=0, le=60)] = Field(0.0, description="Largest shear, degrees, either way.")


class DatasetSpec(Model):
    """The data to train on."""

    name: Literal["digits", "mnist-5k"] = Field(
        description="digits: scikit-learn's 1,797 8x8 digits. mnist-5k: 5,000 MNIST images, split 3,500/500/1,000."
    )
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="Random changes of the training images; none by default."
    )
