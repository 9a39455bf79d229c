"""Simulated nodes: pods placed on them get believable statuses, but no container runs.

`stages.yaml` beside this module says how a simulated pod lives; a test scripts it by annotations:

- `test.scaling.dev/ready-after: 5s`: how long it stays Pending on its node (at once without it);
- `test.scaling.dev/stay-pending: "true"`: it never starts;
- `test.scaling.dev/exit-code: "1"`: it ends, now or as soon as it runs, with this exit code;
  `exit-after: 3s` delays that, `exit-container` names the container that the code is of (default: the first; the
  others get 0), `exit-reason` and `exit-message` set its reason (`OOMKilled`) and termination message;
  `pod-reason` and `pod-message` set the pod's own (`Evicted`), all with the same prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kube.network import Network

SIMULATED = "kwok.x-k8s.io/node"
SIMULATED_TOLERATION = {"key": SIMULATED, "operator": "Equal", "value": "fake", "effect": "NoSchedule"}
SIMULATED_SELECTOR = {"type": "simulated"}

_STAGES = Path(__file__).with_name("stages.yaml")


def kwok_command(program: Path, folder: Path, network: Network) -> list[str]:
    config = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "manageAllNodes": False,
            "manageNodesWithAnnotationSelector": f"{SIMULATED}=fake",
            "cidr": network.simulated_pods,
            "nodeIP": network.node_address,
            "nodeLeaseDurationSeconds": 40,
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,
            "enableCRDs": [],
        },
    }
    path = folder / "kwok.yaml"
    path.write_text(yaml.safe_dump(config) + "---\n" + _STAGES.read_text())
    kubeconfig = folder / "pki" / "kwok.kubeconfig"
    return [str(program), f"--config={path}", f"--kubeconfig={kubeconfig}", "--server-address=127.0.0.1:10247"]


def simulated_node(
    name: str,
    *,
    cpu: str = "64",
    memory: str = "256Gi",
    pods: int = 250,
    gpus: int = 0,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A Node to create; pods need the toleration above to land on it."""
    capacity = {"cpu": cpu, "memory": memory, "pods": str(pods), "ephemeral-storage": "1Ti"}
    if gpus:
        capacity["nvidia.com/gpu"] = str(gpus)
    standard = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **SIMULATED_SELECTOR,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {SIMULATED: "fake"}, "labels": standard | (labels or {})},
        "spec": {"taints": [{"key": SIMULATED, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }
