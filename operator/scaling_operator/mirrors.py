"""The operator's caches: which collections it mirrors and what of their objects it keeps.

Jobs entirely. Pods by the operator's label, without the parts of their specs that nobody reads: a cached pod is
then a third of its size. Services and NetworkPolicies by the same label, metadata only. No Secrets: to mirror
them the operator would need the right to list everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api import API_VERSION, PLURAL, names

from .kinds import NETWORK_POLICY, POD, SERVICE, Kind
from .runtime.client import ApiClient, resource_path
from .runtime.objects import Object
from .runtime.reflector import Reflector
from .runtime.store import Store

# What is mirrored, and everything else (what has no such label at all included).
_OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
NOT_OURS = f"{names.LABEL_MANAGED_BY}!={names.MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The stores, and what feeds them."""

    jobs: Store
    pods: Store
    services: Store
    network_policies: Store
    reflectors: tuple[Reflector, ...]

    def of(self, kind: Kind) -> Store | None:
        """The store of an attempt's objects of that kind; None for Secrets."""
        return {POD: self.pods, SERVICE: self.services, NETWORK_POLICY: self.network_policies}.get(kind)


def build_mirrors(client: ApiClient) -> Mirrors:
    """The caches of the whole cluster; each reflector has yet to be run."""
    jobs, pods = Store("scalingjobs"), Store("pods")
    services, network_policies = Store("services"), Store("networkpolicies")
    return Mirrors(
        jobs=jobs,
        pods=pods,
        services=services,
        network_policies=network_policies,
        reflectors=(
            Reflector(client, resource_path(API_VERSION, PLURAL), jobs),
            Reflector(client, resource_path("v1", "pods"), pods, label_selector=_OURS, transform=trim_pod),
            Reflector(client, resource_path("v1", "services"), services, label_selector=_OURS, metadata_only=True),
            Reflector(
                client,
                resource_path("networking.k8s.io/v1", "networkpolicies"),
                network_policies,
                label_selector=_OURS,
                metadata_only=True,
            ),
        ),
    )


def trim_pod(pod: Object) -> Object:
    """`pod` with only the node's name left of its spec. Works in place, as reflectors own what they pass."""
    node = (pod.get("spec") or {}).get("nodeName")
    pod["spec"] = {"nodeName": node} if node else {}
    return pod
