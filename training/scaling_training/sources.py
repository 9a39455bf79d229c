"""What a run is made of besides its spec and data: the user's code and the weights that it starts from."""

from __future__ import annotations

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
