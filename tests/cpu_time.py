"""CPU seconds of everything that runs here, daemons included, whoever their parent is by now.

The kernel counts them for the control group that this process is in; in a container that is the container. Where no
control group can be read, only what this process has waited for is counted, which leaves daemons out.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROL_GROUP = "the control group, daemons included"
CHILDREN = "the tests' own processes alone, as no control group can be read"


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds since some moment, and of what."""

    seconds: float
    of: str

    def since(self, before: CpuTime) -> CpuTime:
        """What was used after `before`."""
        return CpuTime(self.seconds - before.seconds, self.of)


def used(membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> CpuTime:
    """What was used so far."""
    for folder in _folders(membership, groups):
        for name, seconds in (("cpuacct.usage", _nanoseconds), ("cpu.stat", _statistics)):
            try:
                return CpuTime(seconds((folder / name).read_text()), CONTROL_GROUP)
            except (OSError, KeyError, ValueError):  # the other version of control groups
                continue
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return CpuTime(waited_for.ru_utime + waited_for.ru_stime, CHILDREN)


def _folders(membership: Path, groups: Path) -> Iterator[Path]:
    """Where the counters of this process' group may lie, the likeliest first."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return
    # Version 1 has a hierarchy for each set of controllers; version 2 has one, which names none.
    for controllers, path in [(names, path) for _, names, path in lines if "cpuacct" in names.split(",")]:
        yield groups / controllers / path.lstrip("/")
        # A container may be told the machine's path, and has its own group mounted as the root.
        yield groups / controllers
    for path in [path for _, names, path in lines if names == ""]:
        yield groups / path.lstrip("/")
        yield groups


def _nanoseconds(content: str) -> float:
    return int(content) / 1e9


def _statistics(content: str) -> float:
    return int(dict(line.split() for line in content.splitlines())["usage_usec"]) / 1e6
