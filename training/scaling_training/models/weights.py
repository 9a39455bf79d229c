"""Weights to start from: torchvision's by name, or a file of tensors.

Nothing is unpickled: a file is safetensors, or torch's own format read with weights_only=True. Every tensor of the
model must be in it with the same shape, with two exceptions, both of which are reported: the head keeps its
initial weights when the classes differ, and the first convolution's weights are adapted to the data's channels.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.files import digest_of, fetch
from scaling_training.models.adapt import first_convolution, with_channels

# What a file may hold around its tensors, the likeliest first.
_WRAPPINGS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
# Batches that batch norm has seen: used by nobody unless momentum is None, and missing in old files.
_COUNTER = ".num_batches_tracked"
# Heads that only the original training recipe uses.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# torchvision's files of DenseNet are older than its names: norm.1 is norm1 by now.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of the weights."""

    source: str
    tensors: int  # that were taken
    reinitialised: tuple[str, ...]  # names that keep their initial weights
    adapted: tuple[str, ...]  # names of tensors that were fitted to the data set
    left: tuple[str, ...] = ()  # names in the file that nothing was taken from

    @property
    def sentence(self) -> str:
        """What a user wants to know of it."""
        parts = [f"{self.tensors} tensors of {self.source}"]
        if self.reinitialised:
            parts.append(f"new ones for {_named(self.reinitialised)}")
        if self.adapted:
            parts.append(f"{_named(self.adapted)} fitted to the data set")
        if self.left:
            parts.append(f"{_named(self.left)} of the file not taken")
        return f"The model starts from {'; '.join(parts)}"


def weights_fingerprint(spec: ModelSpec) -> str:
    """SHA-256 of the file of weights, empty when there is none: a part of what a checkpoint's key stands for.

    It fetches the file if need be; UserError as for `load_initial`.
    """
    return digest_of(_content(spec)[0]) if spec.weights is not None else ""


def load_initial(spec: ModelSpec, model: nn.Module, *, head: str) -> Loaded:
    """Put the weights that ``spec.weights`` names into the model. ``head`` is the name of its last layer.

    UserError when there are no such weights, when they cannot be read, and when a tensor is missing, unknown or
    of another shape.
    """
    content, source = _content(spec)
    tensors, taken = _tensors(content, source)
    return fit(tensors, model, head=head, source=f"{source} ({taken})" if taken else source)


def fit(found: Mapping[str, torch.Tensor], model: nn.Module, *, head: str, source: str) -> Loaded:
    """Copy the tensors into the model; see `load_initial`."""
    wanted = model.state_dict()
    found = _unwrapped(found, wanted)
    found = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in found.items()}
    auxiliary = [name for name in found if name.startswith(_AUXILIARY) and name not in wanted]
    found = {name: value for name, value in found.items() if name not in auxiliary}
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        first = f"{first_convolution(model)}.weight"
    else:
        first = ""
    in_head = {name for name in wanted if head and name.startswith(f"{head}.")}
    new_head = any(name not in found or found[name].shape != wanted[name].shape for name in in_head)
    adapted = []
    for name, value in wanted.items():
        if (name in in_head and new_head) or (name.endswith(_COUNTER) and name not in found):
            continue
        if name not in found:
            raise UserError(f"{source} has no tensor {name}, which the model needs; it has e.g. {_some(found)}")
        given = _fitted(name, found[name], value, model, first)
        if given.shape != value.shape:
            raise UserError(
                f"{source}: tensor {name} has the shape {_shape(found[name])}, and the model needs {_shape(value)}; "
                "give weights of this architecture and width"
            )
        if given is not found[name]:
            adapted.append(name)
        with torch.no_grad():
            value.copy_(given)
    unknown = [name for name in found if name not in wanted and not (head and name.startswith(f"{head}."))]
    if unknown:
        raise UserError(f"{source} has a tensor {unknown[0]}, which the model has not; it is of another architecture")
    kept = tuple(sorted(in_head)) if new_head else ()
    of_head = [name for name in found if head and name.startswith(f"{head}.") and (new_head or name not in wanted)]
    return Loaded(source, len(wanted) - len(kept), kept, tuple(adapted), (*of_head, *auxiliary))


def _fitted(name: str, given: torch.Tensor, value: torch.Tensor, model: nn.Module, first: str) -> torch.Tensor:
    """The tensor, changed where the data set's channels or image size ask for it."""
    if name == first and given.dim() == 4 and given.shape[0] == value.shape[0] and given.shape[2:] == value.shape[2:]:
        return with_channels(given, value.shape[1])
    if name == "encoder.pos_embedding" and given.dim() == 3 and given.shape[2] == value.shape[2] != given.shape[1]:
        return _positions(name, given, value, model)
    return given


def _positions(name: str, given: torch.Tensor, value: torch.Tensor, model: Any) -> torch.Tensor:
    """The positions of torchvision's vision transformer, interpolated for another image size."""
    if given.shape == value.shape:
        return given
    from torchvision.models.vision_transformer import interpolate_embeddings

    changed = interpolate_embeddings(model.image_size, model.patch_size, {name: given})
    tensor: torch.Tensor = changed[name]
    return tensor


def _content(spec: ModelSpec) -> tuple[bytes, str]:
    """The file's content, and what to call it in a sentence."""
    weights = spec.weights
    assert weights is not None
    if weights.uri is not None:
        return fetch(weights.uri, field="model.weights.uri", sha256=weights.sha256), f"model.weights.uri {weights.uri}"
    path = _torchvision_file(str(spec.name), str(weights.name))
    return path.read_bytes(), f"model.weights.name {weights.name}"


def _torchvision_file(model: str, name: str) -> Path:
    """The file in torch's cache with torchvision's weights; downloaded, and compared with the hash in its name,
    when it is not there."""
    from torchvision.models import get_model_weights

    offered = get_model_weights(model)
    if name not in offered.__members__:
        known = ", ".join(offered.__members__) or "none"
        raise UserError(f"model.weights.name {name}: torchvision has no such weights of {model}; it has {known}")
    url = str(offered[name].url)
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        digits = re.search(r"-([a-f0-9]*)\.", path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # It writes beside the place and renames, so processes may do it at once.
            torch.hub.download_url_to_file(url, str(path), digits.group(1) if digits else None, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"model.weights.name {name}: {url} cannot be downloaded ({error}); put the file at {path}, or name a "
                "copy by model.weights.uri"
            ) from error
    return path


def _tensors(content: bytes, source: str) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors by name, and under which keys they lay in the file: model.state_dict."""
    taken = []
    try:
        found: Any = _read(content)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{source} is neither safetensors nor a file of torch.save that holds only tensors; save the model's "
            "state_dict()"
        ) from error
    while isinstance(found, Mapping) and (wrapping := _wrapping(found)) is not None:
        taken.append(wrapping)
        found = found[wrapping]
    if not _holds_tensors(found):
        held = f"; it holds {_some(found)}" if isinstance(found, Mapping) else ""
        raise UserError(f"{source} does not hold tensors by name{held}; save the model's state_dict()")
    broken = next(
        (name for name, value in found.items() if value.is_floating_point() and not value.isfinite().all()), None
    )
    if broken is not None:
        raise UserError(
            f"{source}: tensor {broken} holds values that are no numbers; take a file of before training failed"
        )
    return dict(found), ".".join(taken)


def _wrapping(found: Mapping[Any, Any]) -> str | None:
    """Under which key a training script has put the tensors; None when they lie there openly, or nowhere."""
    if _holds_tensors(found):
        return None
    known = [name for name in _WRAPPINGS if isinstance(found.get(name), Mapping)]
    # An optimizer's state is no mapping of tensors, so that of several keys one alone may hold them.
    holders = [name for name, value in found.items() if isinstance(name, str) and _holds_tensors(value)]
    if known:
        return known[0]
    return holders[0] if len(holders) == 1 else None


def _holds_tensors(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _unwrapped(found: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors under the model's names, where all of them lie in a module that the model has not.

    DistributedDataParallel puts ``module.`` before each name, torch.compile ``_orig_mod.``, Lightning ``model.``.
    """
    tensors = dict(found)
    while True:
        outer = {name.partition(".")[0] for name in tensors}
        if len(outer) != 1 or any("." not in name for name in tensors):
            return tensors
        prefix = f"{outer.pop()}."
        if any(name.startswith(prefix) for name in wanted):
            return tensors
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}


def _read(content: bytes) -> Any:
    # torch's format is a zip archive, or a pickle in old files; safetensors begins with the length of its JSON header.
    if content[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(content)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


def _some(found: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(found)[:3])) or "nothing"


def _named(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "of a single number"
