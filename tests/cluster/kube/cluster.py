"""A whole cluster: brings it up, finds it again, takes it down.

Everything of a cluster lies in one folder: certificates, logs, `kubeconfig`, state. What it changes outside of that
folder is one virtual interface, two routes, and control groups named after its containers. `up` first clears what
earlier, crashed clusters in the same parent folder left.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.cluster.kube import controlplane, dns, kwok, node
from tests.cluster.kube.binaries import cache_root, ensure_binaries
from tests.cluster.kube.client import ApiError, Client, condition_status
from tests.cluster.kube.images import (
    REPOSITORY,
    SOURCE_FOLDERS,
    HostMounts,
    import_images,
    standard_images,
)
from tests.cluster.kube.network import Network, connect, disconnect, free_network
from tests.cluster.kube.processes import (
    Namespaces,
    ProcessError,
    close_namespaces,
    find_namespaces,
    open_namespaces,
)

_READY_LIMIT_S = 360.0
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cluster:
    """A running cluster and the means to disturb it."""

    folder: Path
    network: Network
    namespaces: Namespaces

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def volumes(self) -> Path:
        """Where tests put the folders behind their volume claims."""
        return self.folder / "volumes"

    def client(self) -> Client:
        return Client(self.kubeconfig)

    def start(self, component: str) -> None:
        """Start a component again that `stop` ended: etcd, apiserver, kubelet, …"""
        self.namespaces.start(component, _commands(self.folder)[component])

    def stop(self, component: str, *, at_once: bool = False) -> None:
        """End a component and wait for it; `at_once` kills it (the API server takes 10 s to end in order)."""
        self.namespaces.stop(component, with_signal=signal.SIGKILL if at_once else signal.SIGTERM)

    def components(self) -> list[str]:
        return sorted(_commands(self.folder))


def clusters_root() -> Path:
    return cache_root() / "clusters"


def up(
    folder: Path | None = None,
    *,
    simulated_nodes: int = 0,
    with_node: bool = True,
    owner_pid: int | None = None,
) -> Cluster:
    """Start a cluster in `folder` and return once its node is Ready and it answers.

    With `owner_pid`, the cluster ends when that process does. Needs root. A cluster that is up in `folder` is an
    error; remains of one are cleared. After a failure nothing is left but the logs, whose place the error tells.
    """
    folder = (folder or clusters_root() / "default").resolve()
    if find_namespaces(folder) is not None:
        raise ProcessError(f"a cluster is up in {folder} already; take it down first")
    programs = ensure_binaries()
    with _lock(folder.parent):
        _sweep(folder.parent)
        _clear(folder)
        (folder / "logs").mkdir(parents=True)
        namespaces = open_namespaces(folder, controlplane.NODE_NAME, owner_pid=owner_pid)
        try:
            network = free_network()
            (folder / "network.json").write_text(json.dumps(network.number))
            connect(network, namespaces.pid)
        except BaseException:
            close_namespaces(namespaces)
            raise
    cluster = Cluster(folder, network, namespaces)
    try:
        _start_all(cluster, programs, with_node=with_node)
        with cluster.client() as client:
            add_simulated_nodes(client, simulated_nodes)
            _await_ready(cluster, client, simulated_nodes, with_node=with_node)
    except BaseException as error:
        kept = folder.parent / "failed-start-logs"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder / "logs", kept)
        down(folder)
        error.add_note(f"the cluster's logs: {kept}")
        raise
    return cluster


def down(folder: Path | None = None) -> None:
    """End the cluster in `folder` and remove the folder with everything in it; also after a crash of it."""
    folder = (folder or clusters_root() / "default").resolve()
    namespaces = find_namespaces(folder)
    if namespaces is not None:
        close_namespaces(namespaces)
    with _lock(folder.parent):  # the same remains may be found by an `up` elsewhere
        _clear(folder)


def find(folder: Path | None = None) -> Cluster | None:
    """The cluster that is up in `folder`, if any."""
    folder = (folder or clusters_root() / "default").resolve()
    namespaces = find_namespaces(folder)
    if namespaces is None or not (folder / "commands.json").exists():
        return None
    return Cluster(folder, Network(json.loads((folder / "network.json").read_text())), namespaces)


def add_simulated_nodes(client: Client, count: int, *, prefix: str = "simulated", **shape: str | int) -> list[str]:
    """Create simulated nodes PREFIX-0 …, shaped as `kwok.simulated_node` says; those that exist stay."""
    names = [f"{prefix}-{index}" for index in range(count)]
    for name in names:
        if client.find("nodes", name) is None:
            client.create(kwok.simulated_node(name, **shape))  # type: ignore[arg-type]
    return names


def _start_all(cluster: Cluster, programs: dict[str, Path], *, with_node: bool) -> None:
    """Start what needs nothing first, then what needs the API server."""
    folder, network, start = cluster.folder, cluster.network, cluster.namespaces.start
    kube = programs["kube"]
    mounts = HostMounts.of_this_interpreter()
    controlplane.write_certificates(folder, network)
    commands = {
        "etcd": controlplane.etcd_command(kube, folder),
        "apiserver": controlplane.apiserver_command(kube, folder, network),
        "controller-manager": controlplane.controller_manager_command(kube, folder),
        "scheduler": controlplane.scheduler_command(kube, folder),
        "kwok": kwok.kwok_command(programs["kwok"], folder, network),
    }
    if with_node:
        commands |= {
            "containerd": node.containerd_command(folder, network, mounts),
            "kubelet": node.kubelet_command(kube, folder, network),
            "proxy": node.proxy_command(kube, folder, network),
            "coredns": dns.coredns_command(programs["coredns"], folder, network),
        }
    (folder / "commands.json").write_text(json.dumps(commands, indent=1))
    start("etcd", commands["etcd"])
    start("apiserver", commands["apiserver"])
    with ThreadPoolExecutor(max_workers=2) as pool:
        images = pool.submit(_prepare_node, cluster, programs["pause"], mounts) if with_node else None
        _until(cluster, "apiserver", lambda: _answers(cluster, "/readyz"))
        for name in commands:
            if name not in ("etcd", "apiserver", "containerd", "kubelet"):
                start(name, commands[name])
        if images is not None:
            images.result()
            start("kubelet", commands["kubelet"])


def _prepare_node(cluster: Cluster, pause: Path, mounts: HostMounts) -> None:
    cluster.start("containerd")
    for name in SOURCE_FOLDERS:  # the pods cannot write byte code, and without it start seconds later
        compileall.compile_dir(REPOSITORY / name, quiet=2)
    images = standard_images(pause, mounts)
    socket = node.containerd_socket(cluster.folder)
    _until(cluster, "containerd", socket.exists)
    import_images(images, socket, cluster.folder)


def _await_ready(cluster: Cluster, client: Client, simulated_nodes: int, *, with_node: bool) -> None:
    wanted = simulated_nodes + (1 if with_node else 0)

    def nodes_ready() -> bool:
        ready = [item for item in client.list("nodes") if condition_status(item, "Ready") == "True"]
        return len(ready) >= wanted

    def account_exists() -> bool:
        return client.find("serviceaccounts", "default", "default") is not None

    _until(cluster, "controller-manager", account_exists)  # before it no pod can be created
    _until(cluster, "kubelet" if with_node else "kwok", nodes_ready)
    if with_node:
        _until(cluster, "coredns", lambda: _dns_ready(cluster))


def _until(cluster: Cluster, component: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_LIMIT_S
    while not check():
        cluster.namespaces.require(component)
        if time.monotonic() > deadline:
            tail = cluster.namespaces.log_tail(component)
            raise ProcessError(f"{component} is not ready after {_READY_LIMIT_S:g} s; its log ends with:\n{tail}")
        time.sleep(0.1)


def _answers(cluster: Cluster, path: str) -> bool:
    try:
        with cluster.client() as client:
            return client.raw(path) == "ok"
    except (requests.RequestException, ApiError):
        return False


def _dns_ready(cluster: Cluster) -> bool:
    try:
        url = f"http://{cluster.network.node_address}:{dns.HEALTH_PORT}/ready"
        return requests.get(url, timeout=10, proxies={"http": ""}).ok
    except requests.RequestException:
        return False


def _commands(folder: Path) -> dict[str, list[str]]:
    commands: dict[str, list[str]] = json.loads((folder / "commands.json").read_text())
    return commands


def _sweep(root: Path) -> None:
    """Clear every folder under `root` whose cluster has ended without being taken down."""
    for folder in root.iterdir():
        if (folder / "init.json").exists() and find_namespaces(folder) is None:
            _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what an ended cluster left."""
    if not folder.exists():
        return
    if (folder / "network.json").exists():
        disconnect(Network(json.loads((folder / "network.json").read_text())))
    _remove_control_groups(folder)
    shutil.rmtree(folder)


def _remove_control_groups(folder: Path) -> None:
    """Remove the empty control groups of the containers that the cluster's containerd knew."""
    tasks = folder / "containerd" / "state" / "io.containerd.runtime.v2.task" / "k8s.io"
    if not tasks.is_dir():
        return
    containers = {path.name for path in tasks.iterdir()}
    for parent in [_CGROUPS / "k8s.io", *_CGROUPS.glob("*/k8s.io")]:
        for name in containers:
            with contextlib.suppress(OSError):
                (parent / name).rmdir()
        with contextlib.suppress(OSError):
            parent.rmdir()  # goes only when no other containerd has groups in it


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One cluster at a time picks its network and clears old ones."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
