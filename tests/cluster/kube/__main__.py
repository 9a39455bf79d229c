"""`python -m tests.cluster.kube up | down | status | stop | start`: a cluster by hand."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.cluster.kube import cluster as clusters
from tests.cluster.kube.binaries import BuildError, ensure_binaries
from tests.cluster.kube.processes import ProcessError


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return _COMMANDS[arguments.command](arguments)
    except (ProcessError, BuildError, RuntimeError) as error:
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1


def _build(arguments: argparse.Namespace) -> int:
    programs = ensure_binaries()
    print("\n".join(str(path) for path in programs.values()))
    return 0


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = clusters.up(arguments.dir, simulated_nodes=arguments.simulated_nodes, with_node=not arguments.no_node)
    print(f"up in {time.monotonic() - started:.1f} s; logs in {cluster.folder / 'logs'}", file=sys.stderr)
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export PATH={ensure_binaries()['kubectl'].parent}:$PATH")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    clusters.down(arguments.dir)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    cluster = clusters.find(arguments.dir)
    if cluster is None:
        print("no cluster is up there")
        return 1
    print(f"{cluster.folder}  api {cluster.network.api_server}  pods {cluster.network.pods}")
    for name, state in sorted(cluster.namespaces.list().items()):
        print(f"{name:20} {'runs' if state['pid'] else 'ended with ' + str(state['exit'])}")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    _existing(arguments.dir).stop(arguments.component)
    return 0


def _start(arguments: argparse.Namespace) -> int:
    _existing(arguments.dir).start(arguments.component)
    return 0


def _existing(folder: Path | None) -> clusters.Cluster:
    cluster = clusters.find(folder)
    if cluster is None:
        raise ProcessError("no cluster is up there")
    return cluster


_COMMANDS = {"build": _build, "up": _up, "down": _down, "status": _status, "stop": _stop, "start": _start}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kube", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "build": "build the programs into the cache",
        "up": "start a cluster; prints the lines that point a shell at it",
        "down": "end a cluster and remove its folder",
        "status": "list a cluster's processes",
        "stop": "end one component of a cluster",
        "start": "start a stopped component again",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        if name == "build":
            continue
        command.add_argument("--dir", type=Path, help=f"default: {clusters.clusters_root() / 'default'}")
        if name == "up":
            command.add_argument("--simulated-nodes", type=int, default=0, metavar="N")
            command.add_argument("--no-node", action="store_true", help="simulated nodes only: no pod really runs")
        if name in ("stop", "start"):
            command.add_argument("component", help="etcd, apiserver, controller-manager, scheduler, kubelet, …")
    return parser


if __name__ == "__main__":
    sys.exit(main())
