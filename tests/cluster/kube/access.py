"""What a test gets of a cluster, be it its own or the user's, and what is written down when a test fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kube.binaries import ensure_binaries, missing_binaries
from tests.cluster.kube.client import ApiError, Client, Object
from tests.cluster.kube.cluster import Cluster, clusters_root, down, find, up
from tests.cluster.kube.images import REPOSITORY, RUNTIME_IMAGE
from tests.cluster.kube.processes import SEARCH_PATH

_PROGRAMS = ("containerd", "ctr", "runc", "iptables", "ip", "unshare", "nsenter")
_CNI_PROGRAM = Path("/usr/lib/cni/ptp")
_KUBECTL_LIMIT_S = 720.0


@dataclass(frozen=True)
class Access:
    """A cluster that answers; `own` is set when it runs on this machine, started by `tests.cluster.kube`."""

    kubeconfig: Path
    kubectl_program: str
    client: Client
    own: Cluster | None

    @property
    def has_images(self) -> bool:
        """Whether its nodes can run `scaling-runtime:0.1.0` and `scaling-operator:0.1.0`."""
        nodes = self.client.list("nodes")
        names = [name for node in nodes for image in node["status"].get("images", []) for name in image["names"]]
        return self.own is not None or any(name.endswith(RUNTIME_IMAGE) for name in names)

    @property
    def has_simulated_nodes(self) -> bool:
        """Whether simulated nodes can be added."""
        return self.own is not None

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl and return its output; unless `check`, also that of a failed command, errors included."""
        result = subprocess.run(
            [self.kubectl_program, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_KUBECTL_LIMIT_S,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout if check else result.stdout + result.stderr


def why_no_cluster() -> str | None:
    """Why this machine can have no cluster: a sentence that says what to do, or None when it can."""
    if os.environ.get("KUBECONFIG"):
        return None
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        return "a test cluster needs Linux and root; or set KUBECONFIG to a cluster that the tests may use"
    absent = [name for name in _PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    absent += [] if _CNI_PROGRAM.exists() else [str(_CNI_PROGRAM)]
    if absent:
        return f"a test cluster needs {', '.join(absent)}: run tests/cluster/setup.sh, or set KUBECONFIG"
    if missing_binaries() and shutil.which("go") is None and not Path("/usr/local/go/bin/go").exists():
        return "a test cluster's programs are built with Go 1.24 or later, which is not there; or set KUBECONFIG"
    return None


@contextmanager
def building() -> Iterator[subprocess.Popen[bytes] | None]:
    """Build what is missing beside other work; yields the process to wait for, or None when everything is there.

    A build that is under way when the block ends is given up. One that failed is tried again by whoever needs it, and
    raises there.
    """
    if os.environ.get("KUBECONFIG") or not missing_binaries():
        yield None
        return
    command = [sys.executable, "-m", "tests.cluster.kube", "build"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, process_group=0) as build:
        try:
            yield build
        finally:
            if build.poll() is None:
                # The compilers too; interrupted, it clears away what is half built.
                os.killpg(build.pid, signal.SIGINT)


@contextmanager
def open_access(*, simulated_nodes: int) -> Iterator[Access]:
    """The cluster of `KUBECONFIG`, or one of our own that ends with this block or this process."""
    if kubeconfig := os.environ.get("KUBECONFIG"):
        path = Path(kubeconfig).resolve()
        own = find(path.parent)
        program = str(ensure_binaries()["kubectl"]) if own else shutil.which("kubectl") or "kubectl"
        with Client(path) as client:
            yield Access(path, program, client, own)
        return
    folder = clusters_root() / f"test-{os.getpid()}"
    cluster = up(folder, simulated_nodes=simulated_nodes, owner_pid=os.getpid())
    try:
        with cluster.client() as client:
            yield Access(cluster.kubeconfig, str(ensure_binaries()["kubectl"]), client, cluster)
    finally:
        down(folder)


def write_state(access: Access, namespace: str, folder: Path) -> None:
    """Write a namespace's objects, events and logs into `folder`, and logs of the operator and the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("pods", "events", "services", "secrets", "persistentvolumeclaims", "scalingjobs.scaling.dev"):
        try:
            items = access.client.list(kind, namespace)
        except ApiError:  # a kind that is not installed
            continue
        shown = [_without_values(item) for item in items]
        (folder / f"{kind.partition('.')[0]}.json").write_text(json.dumps(shown, indent=1))
    pods = access.kubectl("-n", namespace, "get", "pods", "-o", "wide", check=False)
    events = access.kubectl("-n", namespace, "events", check=False)
    (folder / "overview.txt").write_text(f"{pods}\n{events}")
    operators = access.client.list("pods", labels="app.kubernetes.io/name=scaling-operator")
    for pod in [*access.client.list("pods", namespace), *operators]:
        _write_logs(access, pod, folder)
    if access.own is not None:
        shutil.copytree(access.own.folder / "logs", folder / "cluster", dirs_exist_ok=True)


def _write_logs(access: Access, pod: Object, folder: Path) -> None:
    metadata = pod["metadata"]
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        try:
            text = access.client.logs(metadata["name"], metadata["namespace"], container["name"])
        except ApiError as error:  # not started, or on a simulated node
            text = f"no log: {error}"
        (folder / f"{metadata['name']}.{container['name']}.log").write_text(text)


def _without_values(item: Object) -> Object:
    """The object without the values of a Secret: a dump may be attached to a bug report."""
    return {**item, "data": sorted(item["data"])} if "data" in item else item
