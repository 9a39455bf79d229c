"""The ScalingJob resource: what every other package agrees on.

Models of spec and status, the rules that a spec obeys, the names derived from a job, the reasons a
person reads in its status, and the contract between operator and driver. It does no I/O, depends on
pydantic alone, and is the single source of the CRD, of validation everywhere and of the field reference.
"""

from scaling_api.scalars import API_VERSION, GROUP, KIND, PLURAL, VERSION
from scaling_api.spec import ScalingJob, ScalingJobSpec
from scaling_api.status import ScalingJobStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "ScalingJob",
    "ScalingJobSpec",
    "ScalingJobStatus",
]
