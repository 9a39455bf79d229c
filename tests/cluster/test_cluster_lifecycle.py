"""Starting and ending clusters: what must not stay behind, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cluster.kube import access, cluster
from tests.cluster.kube.binaries import ensure_binaries
from tests.cluster.kube.client import wait_until
from tests.cluster.kube.processes import ProcessError, find_namespaces


@pytest.fixture(autouse=True)
def _may_start_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    if reason := access.why_no_cluster():
        pytest.skip(reason)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = cluster.clusters_root() / f"lifecycle-{os.getpid()}"
    yield path
    cluster.down(path)


def leftovers(running: cluster.Cluster) -> list[str]:
    """What can still be seen of a cluster from outside."""
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/mounts").read_text()
    processes = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if _names(path, running.folder)]
    found = {"link": running.network.host_interface in links, "mount": str(running.folder) in mounts}
    return [name for name, there in found.items() if there] + processes


def _names(command_line: Path, folder: Path) -> bool:
    try:
        return os.fsencode(folder) in command_line.read_bytes()
    except OSError:  # ended meanwhile
        return False


def test_a_cluster_that_is_taken_down_leaves_nothing(folder: Path) -> None:
    running = cluster.up(folder, with_node=False, simulated_nodes=1)
    assert leftovers(running)
    cluster.down(folder)
    assert leftovers(running) == []
    assert not folder.exists()


def test_a_second_start_in_the_same_folder_is_refused_while_the_first_is_up(folder: Path) -> None:
    cluster.up(folder, with_node=False)
    with pytest.raises(ProcessError, match="is up in"):
        cluster.up(folder, with_node=False)
    assert cluster.find(folder) is not None


def test_a_cluster_ends_with_its_owner_and_the_next_start_clears_its_remains(folder: Path) -> None:
    owner = subprocess.Popen(["sleep", "600"])
    try:
        abandoned = cluster.up(folder, with_node=False, owner_pid=owner.pid)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: find_namespaces(folder) is None, timeout_s=10)
    wait_until(lambda: not leftovers(abandoned), timeout_s=10)
    again = cluster.up(folder, with_node=False)
    with again.client() as client:
        assert client.raw("/readyz") == "ok"


def test_a_failed_start_leaves_only_its_logs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = ensure_binaries() | {"kube": Path("/bin/false")}
    monkeypatch.setattr(cluster, "ensure_binaries", lambda: programs)
    with pytest.raises(ProcessError, match="apiserver has ended") as failure:
        cluster.up(folder, with_node=False)
    assert "logs: " in failure.value.__notes__[0]
    assert not folder.exists()


def test_a_component_can_be_stopped_frozen_and_started_again(folder: Path) -> None:
    running = cluster.up(folder, with_node=False)
    with running.client() as client:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
        running.stop("apiserver", at_once=True)
        with pytest.raises(requests.ConnectionError):
            client.raw("/readyz")
        running.start("apiserver")

        def found() -> bool:
            try:
                return client.find("namespaces", "kept") is not None
            except Exception:  # not up yet: refused, or up without its caches
                return False

        wait_until(found, timeout_s=30)
        running.namespaces.signal("apiserver", signal.SIGSTOP)
        with pytest.raises(requests.Timeout):
            requests.get(f"{running.network.api_server}/readyz", timeout=1, verify=False)
        running.namespaces.signal("apiserver", signal.SIGCONT)
        wait_until(found, timeout_s=30)
