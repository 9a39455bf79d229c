"""What a run is made of besides its spec and data: the user's code and the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling_api.redaction import redacted
from scaling_api.spec import ScalingJobSpec
from scaling_training.code import install


def source_digests(spec: ScalingJobSpec) -> dict[str, str]:
    """SHA-256 of the code and of the weights, for those that the spec names. The code can be imported afterwards.

    UserError when one of them is not there or cannot be read.
    """
    digests = {}
    if spec.code is not None:
        digests["code"] = install(spec.code)
    if spec.model.weights is not None:
        from scaling_training.models.weights import weights_fingerprint

        digests["weights"] = weights_fingerprint(spec.model)
    return digests


def without_secrets(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the spec, as JSON values, with its URIs as they may be shown and kept.

    A presigned URI has another signature each time, and names the same file. Arguments of factories stay as they are:
    what of them matters, only the factory knows.
    """
    kept: dict[str, Any] = {}
    for name, value in section.items():
        if name == "uri":
            kept[name] = redacted(value)
        elif isinstance(value, Mapping) and name != "arguments":
            kept[name] = without_secrets(value)
        else:
            kept[name] = value
    return kept
