"""Fixtures of the tests that need a real Kubernetes; README.md in this folder tells which cluster they use.

- `cluster`: access to it (client, kubectl, and the running cluster to disturb when it is our own), for the session;
- `client`, `kubectl`: its two halves by themselves;
- `namespace`: a fresh namespace with Pod Security "restricted", deleted afterwards;
- `simulated_nodes`: names of nodes whose pods only seem to run;
- `storage_claim`: the name of a ReadWriteMany claim in `namespace` and the folder behind it.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.kube import access
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Client
from tests.cluster.kube.cluster import add_simulated_nodes
from tests.cluster.kube.storage import create_claim, delete_volume

_HERE = Path(__file__).parent
_SIMULATED_NODES = 4
_TIMEOUT_S = 1200
_DUMPS = pytest.StashKey[Path]()
_BUILD: pytest.StashKey[subprocess.Popen[bytes] | None] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.cluster)
            # Set-up included, for the first one that of the cluster; the waits inside have limits of their own.
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Build the cluster's programs, when they are missing, beside the tests that need no cluster."""
    wanted = any(item.path.is_relative_to(_HERE) for item in session.items)
    if not wanted or session.config.option.collectonly or access.why_no_cluster() is not None:
        return (yield)
    with access.building() as build:
        session.config.stash[_BUILD] = build
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the test's time limit begins
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the programs."""
    if build := item.config.stash.get(_BUILD, None):
        build.wait()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """When a test with a namespace fails, write down the state of that namespace before it is deleted."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    if report.failed and call.when == "call" and {"cluster", "namespace"} <= arguments.keys():
        folder = item.config.stash[_DUMPS] / item.name
        try:
            access.write_state(arguments["cluster"], arguments["namespace"], folder)
            report.sections.append(("state of the namespace", str(folder)))
        except Exception as error:  # the report of the test matters more than that of its surroundings
            report.sections.append(("state of the namespace", f"not written: {error!r}"))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Access]:
    pytestconfig.stash[_DUMPS] = tmp_path_factory.mktemp("failures", numbered=True)
    if reason := access.why_no_cluster():
        if os.environ.get("SCALING_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with access.open_access(simulated_nodes=_SIMULATED_NODES) as opened:
        yield opened


@pytest.fixture(scope="session")
def client(cluster: Access) -> Client:
    return cluster.client


@pytest.fixture(scope="session")
def kubectl(cluster: Access) -> Callable[..., str]:
    return cluster.kubectl


@pytest.fixture(scope="session")
def simulated_nodes(cluster: Access) -> list[str]:
    if not cluster.has_simulated_nodes:
        pytest.skip("simulated nodes exist in clusters of tests.cluster.kube only")
    return add_simulated_nodes(cluster.client, _SIMULATED_NODES)


@contextmanager
def fresh_namespace(client: Client) -> Iterator[str]:
    """A namespace with Pod Security "restricted", deleted afterwards; for a module whose tests share one."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    client.create(manifest)
    # After an API server was restarted, the controllers may wait half a minute before they list again.
    client.wait_for("serviceaccounts", "default", name, lambda account: True, timeout_s=60)
    yield name
    client.delete("namespaces", name)


@pytest.fixture
def namespace(cluster: Access) -> Iterator[str]:
    with fresh_namespace(cluster.client) as name:
        yield name


@dataclass(frozen=True)
class StorageClaim:
    """A volume claim's name and the folder of this machine that it is bound to."""

    name: str
    folder: Path


@contextmanager
def fresh_claim(cluster: Access, namespace: str) -> Iterator[StorageClaim]:
    """A ReadWriteMany claim in a namespace, deleted afterwards."""
    if cluster.own is None:
        pytest.skip("claims on a folder of this machine exist in clusters of tests.cluster.kube only")
    claim = StorageClaim("runs", cluster.own.volumes / namespace)
    create_claim(cluster.client, namespace, claim.name, claim.folder)
    yield claim
    delete_volume(cluster.client, namespace, claim.name)


@pytest.fixture
def storage_claim(cluster: Access, namespace: str) -> Iterator[StorageClaim]:
    with fresh_claim(cluster, namespace) as claim:
        yield claim
