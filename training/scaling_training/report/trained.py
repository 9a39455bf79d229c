"""A trained model in the hands of a program: from images or numbers to scores and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scaling_training.data.targets import Kind
    from scaling_training.models.task import Task

_BATCH = 256


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model in evaluation mode, with what is needed to use it.

    Where a method takes ``samples`` they are, for a model of images, files (paths; one alone is one sample), or arrays
    as the data set had them: whole numbers [sample, channel, height, width], or [sample, height, width] for one
    channel. For other models they are numbers [sample, …].
    """

    task: Task
    kind: Kind  # what it gives: a score for each of the classes or labels, or numbers
    class_names: tuple[str, ...]  # of the classes or labels
    architecture: dict[str, Any]  # all that architecture.json says

    @property
    def model(self) -> nn.Module:
        """The network itself; it takes what `inputs` returns, if its task has no other inputs."""
        return self.task.model

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample; of an image: channels, height, width."""
        return tuple(self.architecture["inputShape"])

    def inputs(self, samples: Any) -> torch.Tensor:
        """The samples as the network takes them, [sample, …], images normalised as in training.

        UserError for files that cannot be read, and for arrays of another shape.
        """
        import torch

        if isinstance(samples, (str, Path)):
            samples = [samples]
        files = isinstance(samples, Sequence) and all(isinstance(sample, (str, Path)) for sample in samples)
        values = self._decoded(samples) if files else np.asarray(samples)
        if values.ndim == len(self.input_shape) and self.input_shape[:1] == (1,):
            values = values[:, None]
        if values.shape[1:] != self.input_shape:
            raise UserError(f"samples of the shape {values.shape[1:]}: the model takes {self.input_shape}")
        normalisation = self.architecture["normalisation"]
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if normalisation is None:
            return tensor.float() if tensor.is_floating_point() else tensor.long()
        mean, std = (torch.tensor(normalisation[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
        images: torch.Tensor = (tensor.float() / normalisation["maxValue"] - mean) / std
        return images

    def scores(self, samples: Any) -> torch.Tensor:
        """What the model gives, [sample, …]: probabilities of the classes or labels, or the numbers predicted.

        Of a task of the user's own, its model's output as it is.
        """
        import torch

        from scaling_training.data.batches import Batch
        from scaling_training.models.task import ClassificationTask, MultiLabelTask

        inputs, found = self.inputs(samples), []
        with torch.inference_mode():
            for start in range(0, len(inputs), _BATCH):
                part = inputs[start : start + _BATCH]
                nothing = torch.zeros(len(part), dtype=torch.int64)
                found.append(self.model(*self.task.inputs(Batch(part, nothing, nothing))))
        output = torch.cat(found)
        if isinstance(self.task, ClassificationTask):
            return output.softmax(dim=1)
        return output.sigmoid() if isinstance(self.task, MultiLabelTask) else output

    def predict(self, samples: Any) -> list[Any]:
        """For each sample: the name of its class, the names of its labels, or its number or numbers.

        UserError for a task of the user's own, whose output only the user can read: see `scores`.
        """
        from scaling_training.models.task import ClassificationTask, MultiLabelTask, RegressionTask

        if isinstance(self.task, ClassificationTask):
            return [self.class_names[index] for index in self.scores(samples).argmax(dim=1).tolist()]
        if isinstance(self.task, MultiLabelTask):
            rows = (self.scores(samples) > 0.5).tolist()
            return [[name for name, true in zip(self.class_names, row, strict=True) if true] for row in rows]
        if isinstance(self.task, RegressionTask):
            numbers = self.scores(samples)
            return list((numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers).tolist())
        raise UserError(f"what a {type(self.task).__name__} predicts only its author can say; take its scores")

    def _decoded(self, files: Sequence[str | Path]) -> NDArray[np.uint8]:
        from scaling_training.data.decode import decode
        from scaling_training.data.samples import UnreadableError

        channels, height, width = self.input_shape if len(self.input_shape) == 3 else (0, 0, 0)
        if not channels or height != width or self.architecture["normalisation"]["maxValue"] != 255:
            raise UserError("the model was not trained on image files: give arrays as its data set had them")
        pictures = []
        for file in files:
            try:
                pictures.append(decode(Path(file).read_bytes(), size=height, channels=channels))
            except (OSError, UnreadableError) as error:
                raise UserError(f"{file} cannot be read: {error}") from error
        return np.stack(pictures)
