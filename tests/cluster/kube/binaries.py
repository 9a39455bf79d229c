"""The programs a cluster is made of, built from Go modules into a cache folder.

No registry serves these programs as such, and distribution packages are years behind; the Go module proxy has the
sources of every release. A module's cache folder is named after the hash of its sources, so an edit builds anew and
an old checkout still finds its own. A build holds a file lock and ends in one rename: nobody sees half a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
KUBERNETES_VERSION = "v1.34.4"  # 1.35 and later refuse nodes with cgroup v1

_VERSION_PACKAGE = "k8s.io/component-base/version"
_VERSION_FLAGS = (
    f"-X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION} "
    f"-X {_VERSION_PACKAGE}.gitMajor=1 -X {_VERSION_PACKAGE}.gitMinor=34"
)


class BuildError(RuntimeError):
    """A program could not be built; the message ends with what Go said."""


@dataclass(frozen=True)
class Module:
    """A Go module under `src/` and the programs built from it: file name to Go package."""

    name: str
    programs: dict[str, str]
    linker_flags: str = ""


MODULES = (
    Module("pause", {"pause": "."}),
    Module("coredns", {"coredns": "."}),
    Module("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    Module("k8s", {"kube": ".", "kubectl": "./kubectl"}, _VERSION_FLAGS),
)


def cache_root() -> Path:
    """The folder that outlives checkouts and test runs."""
    return Path(os.environ.get("SCALING_CACHE") or Path.home() / ".cache" / "scaling-operator")


def ensure_binaries() -> dict[str, Path]:
    """Return every program's path by name; build those that the cache lacks, with a line of progress each.

    A cold build takes minutes and needs Go and its module proxy. Raises BuildError.
    """
    found: dict[str, Path] = {}
    for module in MODULES:
        folder = _ensure_module(module)
        found.update({name: folder / name for name in module.programs})
    return found


def missing_binaries() -> list[str]:
    """The programs that `ensure_binaries` would have to build."""
    return [name for module in MODULES if not _folder(module).is_dir() for name in module.programs]


def _folder(module: Module) -> Path:
    digest = hashlib.sha256(module.linker_flags.encode())
    for path in sorted((SOURCES / module.name).rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return cache_root() / "bin" / f"{module.name}-{digest.hexdigest()[:16]}"


def _ensure_module(module: Module) -> Path:
    folder = _folder(module)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{module.name}.lock"):
        if folder.is_dir():  # built by whoever held the lock before
            return folder
        started = time.monotonic()
        _say(f"building {', '.join(module.programs)} (minutes when cold)")
        scratch = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=folder.parent))
        try:
            scratch.chmod(0o755)
            for name, package in module.programs.items():
                _build(module, package, scratch / name)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _say(f"built {', '.join(module.programs)} in {time.monotonic() - started:.0f} s")
    return folder


def _build(module: Module, package: str, target: Path) -> None:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    flags = f"-s -w {module.linker_flags}".strip()
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", str(target), package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    try:
        result = subprocess.run(
            command, cwd=SOURCES / module.name, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BuildError(f"building {target.name} needs Go 1.24 or later on PATH; there is none") from None
    if result.returncode != 0:
        raise BuildError(f"building {target.name} failed:\n{result.stderr[-4000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(f"test cluster: {line}", file=sys.stderr, flush=True)
