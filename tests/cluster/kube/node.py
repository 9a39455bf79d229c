"""The one real node: containerd, kubelet and kube-proxy.

Pods are wired by the `ptp` plugin (a routed pair of interfaces each): unlike a bridge it needs no kernel module for
traffic between pods of one node to pass the Services' rules.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from pathlib import Path

from tests.cluster.kube.controlplane import NODE_NAME
from tests.cluster.kube.images import PAUSE_IMAGE, HostMounts
from tests.cluster.kube.network import Network

# Cloud nodes give containers about a million open files, containerd's default specification 1024.
_OPEN_FILES = 1048576
_CNI_PROGRAMS = "/usr/lib/cni"


def containerd_socket(folder: Path) -> Path:
    return folder / "containerd.sock"


def containerd_command(folder: Path, network: Network, mounts: HostMounts) -> list[str]:
    """Write containerd's, CNI's and runc's configuration; return the command line."""
    spec_path = folder / "containers.json"
    spec_path.write_text(json.dumps(_runtime_spec(mounts)))
    _write_cni(folder, network)
    config = folder / "containerd.toml"
    config.write_text(f"""\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{containerd_socket(folder)}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{spec_path}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{_CNI_PROGRAMS}"
  conf_dir = "{folder}/cni"
""")
    return [shutil.which("containerd") or "/usr/bin/containerd", "--config", str(config), "--log-level", "warn"]


def kubelet_command(program: Path, folder: Path, network: Network) -> list[str]:
    pki = folder / "pki"
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {network.node_address}\n")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node_address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "node.crt"),
        "tlsPrivateKeyFile": str(pki / "node.key"),
        "containerRuntimeEndpoint": f"unix://{containerd_socket(folder)}",
        "clusterDNS": [network.node_address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv_conf),
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,  # never: there is no registry to fetch an image from again
        "maxPods": 200,
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "registryPullQPS": 0,
    }
    path = folder / "kubelet.json"
    path.write_text(json.dumps(config, indent=1))
    return [
        str(program),
        "kubelet",
        f"--config={path}",
        f"--kubeconfig={pki / 'node.kubeconfig'}",
        f"--root-dir={folder / 'kubelet'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={network.node_address}",
    ]


def proxy_command(program: Path, folder: Path, network: Network) -> list[str]:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(folder / "pki" / "proxy.kubeconfig")},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": network.pods,
        # The connection table's size is the machine's setting, out of a network namespace's reach.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    path = folder / "proxy.json"
    path.write_text(json.dumps(config, indent=1))
    return [str(program), "proxy", f"--config={path}"]


def _runtime_spec(mounts: HostMounts) -> dict[str, object]:
    """runc's default specification plus the machine's folders, read-only, in every container."""
    output = subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True).stdout
    spec: dict[str, object] = json.loads(output)
    assert isinstance(spec["mounts"], list)
    assert isinstance(spec["process"], dict)
    spec["mounts"] += [
        {"destination": place, "type": "bind", "source": folder, "options": ["rbind", "ro", "nosuid", "nodev"]}
        for place, folder in mounts.folders.items()
    ]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # even root may not always go beyond
    limit = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": limit, "soft": limit}]
    return spec


def _write_cni(folder: Path, network: Network) -> None:
    ranges = [[{"subnet": network.pods}]]
    store = str(folder / "cni-addresses")
    plugins = [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": store,
                "ranges": ranges,
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    (folder / "cni").mkdir(exist_ok=True)
    path = folder / "cni" / "10-test.conflist"
    path.write_text(json.dumps({"cniVersion": "0.4.0", "name": "test", "plugins": plugins}, indent=1))
