"""Addresses of a cluster: a free number, and all networks computed from it.

A cluster lives in a network namespace of its own, joined to the machine by one pair of virtual interfaces. The
machine gets routes to the cluster's pods and services, so tests reach them directly. Several clusters at once need
different networks, hence the number; pods have no way out to any other network, which keeps tests honest.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from typing import Any

_NUMBERS = range(32)


@dataclass(frozen=True)
class Network:
    """The networks of cluster number `number`; all within 10.128.0.0/9."""

    number: int

    @property
    def host_interface(self) -> str:
        return f"scaling{self.number}"

    @property
    def link(self) -> str:
        """The network of the virtual cable between the machine and the cluster."""
        return f"10.255.{self.number}.0/30"

    @property
    def host_address(self) -> str:
        return f"10.255.{self.number}.1"

    @property
    def node_address(self) -> str:
        return f"10.255.{self.number}.2"

    @property
    def pods(self) -> str:
        return f"10.{128 + self.number}.0.0/24"

    @property
    def services(self) -> str:
        return f"10.{160 + self.number}.0.0/16"

    @property
    def first_service(self) -> str:
        """The address of the `kubernetes` Service."""
        return f"10.{160 + self.number}.0.1"

    @property
    def simulated_pods(self) -> str:
        return f"10.{192 + self.number}.0.1/16"

    @property
    def api_server(self) -> str:
        return f"https://{self.node_address}:6443"

    def overlaps(self, other: ipaddress.IPv4Network) -> bool:
        return any(ipaddress.ip_network(own).overlaps(other) for own in (self.link, self.pods, self.services))


def free_network() -> Network:
    """A network that no interface or route of this machine overlaps. Raises RuntimeError when there is none."""
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in _ip_json("-4", "route", "show", "table", "all")
        if route["dst"] != "default"
    ]
    used = [network for network in taken if isinstance(network, ipaddress.IPv4Network)]
    for number in _NUMBERS:
        network = Network(number)
        if not any(network.overlaps(other) for other in used):
            return network
    raise RuntimeError(f"all {len(_NUMBERS)} networks for test clusters are in use on this machine")


def connect(network: Network, namespace_pid: int) -> None:
    """Lay the cable into the network namespace of process `namespace_pid`, and routes on both sides."""
    inside = ("nsenter", "--target", str(namespace_pid), "--net", "ip")
    name = network.host_interface
    _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(namespace_pid))
    _run("ip", "address", "add", f"{network.host_address}/30", "dev", name)
    _run("ip", "link", "set", name, "up")
    _run(*inside, "address", "add", f"{network.node_address}/30", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "route", "add", "default", "via", network.host_address)
    for destination in (network.pods, network.services):
        _run("ip", "route", "add", destination, "via", network.node_address)


def disconnect(network: Network) -> None:
    """Take the cable away, if it is still there: the end of the namespace has usually done so."""
    subprocess.run(["ip", "link", "delete", network.host_interface], capture_output=True, check=False)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")


def _ip_json(*arguments: str) -> list[dict[str, Any]]:
    output = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True).stdout
    routes: list[dict[str, Any]] = json.loads(output or "[]")
    return routes
