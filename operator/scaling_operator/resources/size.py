"""Does an attempt's Secret hold what its pods are made from?

The Secret has the resolved spec once, and the spec's variables and podOverrides again in each pod template. The API
server takes no Secret of more than MAX_BYTES, which nothing but a shorter spec mends. A rule of the spec refuses most
of that at apply, by the variables alone; here the Secret is made and measured.
"""

from __future__ import annotations

import json

from scaling_api.spec import ScalingJob

from ..settings import Settings
from .attempt import render_attempt
from .secret import resolved_manifest

MAX_BYTES = 1 << 20
# Instead of a real token and CA, and for longer names than the default's of image and Service.
_ALLOWANCE = "x" * (16 << 10)


def check_size(job: ScalingJob) -> list[str]:
    """A sentence when the Secret of the job's attempts would be too large; empty when it would not.

    The job's podOverrides passed `check_overrides`.
    """
    copies = len(job.spec.cluster.workers) + 3  # the spec, two containers of the head, each group
    # What is far below needs no rendering: the operator looks at each version of each job.
    if len(json.dumps(resolved_manifest(job))) * copies < MAX_BYTES // 2:
        return []
    rendered = render_attempt(job, attempt=1, settings=Settings(), ray_token="", ca_bundle=_ALLOWANCE)
    size = sum(3 * len(value) // 4 for value in rendered.secret["data"].values())  # they are in base64
    if size <= MAX_BYTES:
        return []
    return [
        f"spec and pod templates take {-(-size // 1024):,} KiB, and the Secret that holds them takes "
        f"{MAX_BYTES // 1024:,}; shorten cluster.env, cluster.podOverrides or arguments, mount large values as files "
        "(cluster.volumes), or have fewer worker groups"
    ]
