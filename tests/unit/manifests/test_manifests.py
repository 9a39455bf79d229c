"""What can be checked of manifests/ without a cluster; tests/cluster applies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling_operator.settings import Settings, environment_name
from tests.unit.scaling_operator.resources.pod_security import restricted_violations

FOLDER = Path(__file__).parents[3] / "manifests"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.fixture
def pod() -> dict[str, Any]:
    (deployment,) = documents("deployment.yaml")
    template: dict[str, Any] = deployment["spec"]["template"]
    return template


def test_every_file_is_listed() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}


def test_the_operators_pod_satisfies_pod_security_restricted(pod: dict[str, Any]) -> None:
    assert restricted_violations(pod) == []
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_pod_agrees_with_the_operators_defaults(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    settings = Settings()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"https": settings.https_port, "metrics": settings.metrics_port}
    known = {environment_name(field) for field in Settings.__dataclass_fields__}
    assert {variable["name"] for variable in container["env"]} <= known


def test_drivers_find_the_service_under_the_name_that_they_are_told() -> None:
    (service,) = documents("service.yaml")
    settings = Settings()
    assert service["metadata"]["name"] == settings.service_name
    assert service["metadata"]["namespace"] == settings.namespace
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert ports["https"] == settings.service_port


def test_the_default_image_of_jobs_is_that_of_the_manifests() -> None:
    (kustomization,) = documents("kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    assert generator["literals"] == [f"runtimeImage={Settings().runtime_image}"]


def test_the_operators_rights_are_listed_one_by_one() -> None:
    for document in documents("rbac.yaml"):
        for rule in document.get("rules", []):
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


def test_no_other_object_has_the_config_maps_name() -> None:
    """Kustomize would put the hash of the ConfigMap's name into the other's references."""
    (kustomization,) = documents("kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    others = [document["metadata"]["name"] for name in kustomization["resources"] for document in documents(name)]
    assert generator["name"] not in others
