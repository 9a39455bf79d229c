"""Identity of the resource, limits of names, and the string types that several sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from scaling_api.constraints import Pattern, Quantity

GROUP = "scaling.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ScalingJob"
PLURAL = "scalingjobs"

# Every derived name must fit a DNS label of 63: job(38)-attempt(4)-group(10)-index(3)-incarnation(4).
MAX_JOB_NAME = 38
MAX_GROUP_NAME = 10
MAX_WORKERS_PER_GROUP = 999
MAX_ATTEMPT = 9999
MAX_INCARNATION = 9999

JOB_NAME = Pattern(
    r"[a-z]([-a-z0-9]*[a-z0-9])?",
    "a job name: use lower-case letters, digits and dashes, beginning with a letter and not ending with a dash",
)
# No dash, so that a pod's name can be read in one way only and two jobs never meet in one.
GROUP_NAME = Pattern(r"[a-z][a-z0-9]*", "a group name: use lower-case letters and digits only, beginning with a letter")
VOLUME_NAME = Pattern(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "a volume name: use lower-case letters, digits and dashes, with no dash at either end",
)
OBJECT_NAME = Pattern(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "the name of an object: use lower-case letters, digits, dashes and dots, with a letter or digit at either end",
)
QUANTITY = Pattern(
    r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?",
    "a quantity: write a number with or without a unit, such as 500m, 2, 1.5 or 4Gi",
)

ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253), OBJECT_NAME]
QuantityText = Annotated[str, Quantity(QUANTITY, max_length=20)]
