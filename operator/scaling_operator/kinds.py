"""The kinds of object that an attempt consists of, and where the API has them."""

from __future__ import annotations

from typing import NamedTuple

from .runtime.client import resource_path


class Kind(NamedTuple):
    """A kind as it stands in manifests (`name`) and in paths (`plural`)."""

    name: str
    group_version: str
    plural: str

    def path(self, namespace: str, name: str | None = None) -> str:
        """The collection of a namespace, or one object in it."""
        return resource_path(self.group_version, self.plural, namespace, name)


POD = Kind("Pod", "v1", "pods")
SERVICE = Kind("Service", "v1", "services")
SECRET = Kind("Secret", "v1", "secrets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
