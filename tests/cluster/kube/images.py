"""The images of the cluster's pods, written by hand, and the folders of this machine that they show.

There is no registry and no image builder. A "runtime" image is a few empty folders and an environment; the Python
environment in it is this machine's own, mounted read-only by containerd into every container. The pods' manifests
stay what they are in production, and no gigabyte is copied.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAUSE_IMAGE = "docker.io/library/scaling-pause:test"
RUNTIME_IMAGE = "scaling-runtime:0.1.0"
OPERATOR_IMAGE = "scaling-operator:0.1.0"

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCE_FOLDERS = ("api", "operator", "training", "cli")
USER_ID = 1000

_BIN = "opt/scaling/bin"
_ENVIRONMENT = "/opt/scaling/environment"
_SOURCES = "/opt/scaling/sources"
_TOP_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OTHER_FOLDERS = ("/usr", "/etc/ssl", "/etc/alternatives")
# Made anew, since they name no one's passwords or other secrets of the machine.
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nscaling:x:1000:1000:scaling:/home/scaling:/bin/sh\n"
_GROUP = "root:x:0:\nscaling:x:1000:\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
# Console scripts name their interpreter by its path on this machine: those that pods run are made anew.
_CONSOLE_SCRIPTS = {
    "ray": "ray.scripts.scripts",
    "scalingjob": "scaling_cli.main",
    "scaling-operator": "scaling_operator.main",
    "scaling-driver": "scaling_training.driver",
}


@dataclass(frozen=True)
class HostMounts:
    """Folders of this machine shown read-only in every container, by where they appear there.

    The system and the interpreter appear at their own paths. The environment and the sources appear below
    /opt/scaling, because a checkout may lie where pods mount something else, such as /tmp.
    """

    folders: Mapping[str, str]

    @classmethod
    def of_this_interpreter(cls) -> HostMounts:
        """System folders, the running interpreter, its environment and the project's sources."""
        same = [f"/{name}" for name in _TOP_FOLDERS if not Path("/", name).is_symlink()]
        same += [*_OTHER_FOLDERS, sys.base_prefix, str(Path(sys.base_prefix).resolve())]
        chosen: dict[str, str] = {}
        for path in same:
            inside = any(path == other or path.startswith(other + "/") for other in chosen)
            if not inside and Path(path).is_dir():
                chosen[path] = path
        if sys.prefix != sys.base_prefix:
            chosen[_ENVIRONMENT] = sys.prefix
        return cls(chosen | {f"{_SOURCES}/{name}": str(REPOSITORY / name) for name in SOURCE_FOLDERS})


@dataclass(frozen=True)
class Image:
    """An image's one layer and its configuration."""

    name: str
    layer: bytes
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    user: str = ""


def standard_images(pause_program: Path, mounts: HostMounts) -> list[Image]:
    """The image of every pod's first process, and those of the training pods and of the operator."""
    layer = _layer(_runtime_files(), mounts.folders)
    environment = {
        "PATH": f"/{_BIN}:{_prefix()}/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": ":".join(f"{_SOURCES}/{name}" for name in SOURCE_FOLDERS),
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
    }
    user = f"{USER_ID}:{USER_ID}"
    return [
        Image(PAUSE_IMAGE, _pause_layer(pause_program), entrypoint=("/pause",)),
        Image(RUNTIME_IMAGE, layer, environment, user=user),
        Image(OPERATOR_IMAGE, layer, environment, entrypoint=("scaling-operator",), user=user),
    ]


def import_images(images: Iterable[Image], socket: Path, scratch: Path) -> None:
    """Give the images to containerd. Raises RuntimeError with what it said when it refuses."""
    archive = scratch / "images.tar"
    archive.write_bytes(docker_archive(images))
    command = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", str(archive)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archive.unlink()
    if result.returncode != 0:
        raise RuntimeError(f"importing images: {result.stderr.strip()}")


def docker_archive(images: Iterable[Image]) -> bytes:
    """What `docker save` would write for these images."""
    manifest: list[dict[str, object]] = []
    files: dict[str, bytes] = {}
    for image in images:
        digest = hashlib.sha256(image.layer).hexdigest()
        config = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": {
                "Env": [f"{name}={value}" for name, value in image.environment.items()],
                "Entrypoint": list(image.entrypoint) or None,
                "User": image.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests/cluster"}],
        }
        data = json.dumps(config).encode()
        config_name = f"{hashlib.sha256(data).hexdigest()}.json"
        files[config_name] = data
        files[f"{digest}/layer.tar"] = image.layer
        manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": [f"{digest}/layer.tar"]})
    files["manifest.json"] = json.dumps(manifest).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            _add_file(archive, name, data)
    return buffer.getvalue()


def _prefix() -> str:
    """The Python environment's folder in a container."""
    return _ENVIRONMENT if sys.prefix != sys.base_prefix else sys.prefix


def _runtime_files() -> dict[str, tuple[bytes, int]]:
    files = {
        "etc/passwd": (_PASSWD.encode(), 0o644),
        "etc/group": (_GROUP.encode(), 0o644),
        "etc/nsswitch.conf": (_NSSWITCH.encode(), 0o644),
    }
    cache = Path("/etc/ld.so.cache")  # how programs find libraries outside of the default folders
    if cache.exists():
        files["etc/ld.so.cache"] = (cache.read_bytes(), 0o644)
    for script, module in _CONSOLE_SCRIPTS.items():
        text = f"#!{_prefix()}/bin/python\nimport sys\nfrom {module} import main\n\nsys.exit(main())\n"
        files[f"{_BIN}/{script}"] = (text.encode(), 0o755)
    return files


def _layer(files: dict[str, tuple[bytes, int]], mount_points: Iterable[str]) -> bytes:
    """A layer of files and empty folders; every parent folder is open to all, whatever it is on this machine."""
    folders = {"tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "root": 0o755, "var/tmp": 0o1777}
    folders["home/scaling"] = 0o755
    links = {name: os.readlink(Path("/", name)) for name in _TOP_FOLDERS if Path("/", name).is_symlink()}
    for point in mount_points:
        folders.setdefault(point.lstrip("/"), 0o755)
    for path in [*folders, *files, *links]:
        for parent in Path(path).parents:
            if parent != Path("."):
                folders.setdefault(str(parent), 0o755)
    owned = {"home/scaling"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in sorted(folders):
            entry = _entry(name, tarfile.DIRTYPE, folders[name])
            if name in owned:
                entry.uid = entry.gid = USER_ID
            layer.addfile(entry)
        for name, target in sorted(links.items()):
            entry = _entry(name, tarfile.SYMTYPE, 0o777)
            entry.linkname = target
            layer.addfile(entry)
        for name, (data, mode) in sorted(files.items()):
            _add_file(layer, name, data, mode)
    return buffer.getvalue()


def _pause_layer(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add_file(layer, "pause", program.read_bytes(), 0o755)
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry
