"""CoreDNS as a process of the node, answering for the cluster's own names only."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.kube.network import Network

HEALTH_PORT = 8053


def coredns_command(program: Path, folder: Path, network: Network) -> list[str]:
    """Write the Corefile; return the command line.

    Every other name is answered with "no such name" at once: left unanswered, each look-up of an outside name would
    cost a pod the resolver's full time limit.
    """
    path = folder / "Corefile"
    path.write_text(f"""\
cluster.local in-addr.arpa {{
    bind {network.node_address}
    errors
    ready {network.node_address}:{HEALTH_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {folder / "pki" / "coredns.kubeconfig"}
        pods insecure
        ttl 2
    }}
}}
. {{
    bind {network.node_address}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
""")
    return [str(program), "-conf", str(path)]
