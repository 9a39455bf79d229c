"""The CRD on a test cluster."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.kube.client import ApiError, Client, condition_status, wait_until

KIND = "scalingjobs.scaling.dev"
_FILE = Path(__file__).parents[2] / "manifests" / "crd.yaml"

# A kind is Established a moment before it is found, and has its storage later still.
_NOT_YET = (404, 429, 503)


def install_crd(client: Client) -> None:
    """Apply manifests/crd.yaml and wait until the server answers for it; nothing changes when it is there already."""

    def served() -> bool:
        try:
            client.list(KIND, "default")
        except ApiError as error:
            if error.code not in _NOT_YET:
                raise
            return False
        return True

    client.apply_all(_FILE.read_text())
    client.wait_for(
        "customresourcedefinitions.apiextensions.k8s.io",
        KIND,
        None,
        lambda found: condition_status(found, "Established") == "True",
    )
    wait_until(served)
