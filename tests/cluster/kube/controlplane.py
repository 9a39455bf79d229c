"""etcd, API server, controller manager and scheduler: certificates, configuration, command lines.

Settings differ from a usual cluster in three ways only: no data is synced to disk, leader election is off, and client
limits are high enough that the machine, not a default of 20 or 50 requests a second, is what load tests measure.
"""

from __future__ import annotations

from pathlib import Path

from tests.cluster.kube.certs import CLIENTS, Authority, Identity
from tests.cluster.kube.network import Network

NODE_NAME = "test-node"
ETCD = "http://127.0.0.1:2379"  # loopback of the cluster's own network namespace
_ETCD_PEER = "http://127.0.0.1:2380"


def write_certificates(folder: Path, network: Network) -> None:
    """Write pki/ and a kubeconfig per component, the admin's as `kubeconfig` in the cluster's folder."""
    authority = Authority(folder / "pki")
    services = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    names = ("localhost", *services, "127.0.0.1", network.first_service, network.node_address)
    authority.issue("apiserver", Identity("kube-apiserver"), serves=names)
    node = Identity(f"system:node:{NODE_NAME}", "system:nodes")
    authority.issue("node", node, serves=(NODE_NAME, network.node_address))
    authority.issue_key_pair("service-accounts")
    for name, identity in CLIENTS.items():
        authority.issue(name, identity)
    for name in ("node", *CLIENTS):
        path = folder / "kubeconfig" if name == "admin" else folder / "pki" / f"{name}.kubeconfig"
        authority.write_kubeconfig(name, network.api_server, path)


def etcd_command(program: Path, folder: Path) -> list[str]:
    return [
        str(program),
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
        "--quota-backend-bytes=4294967296",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(program: Path, folder: Path, network: Network) -> list[str]:
    pki = folder / "pki"
    return [
        str(program),
        "apiserver",
        f"--etcd-servers={ETCD}",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={network.node_address}",
        f"--service-cluster-ip-range={network.services}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-to-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",  # Pod Security decides per namespace, as on a usual cluster
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        "--profiling=false",
    ]


def controller_manager_command(program: Path, folder: Path) -> list[str]:
    pki = folder / "pki"
    return [
        str(program),
        "controller-manager",
        f"--kubeconfig={pki / 'controller-manager.kubeconfig'}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--allocate-node-cidrs=false",
        # A claim that just misses its volume is looked at again after this time; 15 s by default.
        "--pvclaimbinder-sync-period=1s",
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        "--profiling=false",
    ]


def scheduler_command(program: Path, folder: Path) -> list[str]:
    config = folder / "scheduler.yaml"
    config.write_text(f"""\
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: {folder / "pki" / "scheduler.kubeconfig"}
  qps: 1000
  burst: 2000
leaderElection:
  leaderElect: false
""")
    return [str(program), "scheduler", f"--config={config}", "--bind-address=127.0.0.1"]
