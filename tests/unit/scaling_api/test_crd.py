"""The CRD is what the API server takes and kubectl can apply: structural, bounded, small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaling_api.crd import crd, schema, with_defaults
from scaling_api.scalars import MAX_JOB_NAME
from scaling_api.spec import ScalingJobSpec
from tests.cases.case import minimal

_FILE = Path(__file__).parents[3] / "manifests" / "crd.yaml"
_MAX_SIZE_BYTES = 100_000  # kubectl apply copies the whole object into an annotation of at most 256 KiB
_MAX_DESCRIPTION = 400

Node = dict[str, Any]


def _walk(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(f"{path}.{name}", child)
    for word in ("items", "additionalProperties"):
        if word in node:
            yield from _walk(f"{path}[]", node[word])


_NODES = [*_walk("spec", schema()["properties"]["spec"]), *_walk("status", schema()["properties"]["status"])]
_FREE_FORM = {"spec.cluster.podOverrides", "spec.dataset.arguments", "spec.model.arguments"}


def _of_type(kind: str) -> list[Any]:
    return [pytest.param(node, id=path) for path, node in _NODES if node.get("type") == kind]


def test_it_is_small() -> None:
    assert len(_FILE.read_bytes()) < _MAX_SIZE_BYTES
    assert len(json.dumps(crd()).encode()) < _MAX_SIZE_BYTES


@pytest.mark.parametrize("node", [pytest.param(node, id=path) for path, node in _NODES])
def test_a_node_is_structural(node: Node) -> None:
    is_quantity = node.get("x-kubernetes-int-or-string", False)
    assert ("type" in node) is not is_quantity
    assert ("anyOf" in node) is is_quantity
    assert not {"$ref", "allOf", "oneOf", "not", "nullable", "title", "const", "propertyNames"} & node.keys()
    assert node.get("type") != "null"
    assert isinstance(node.get("additionalProperties", {}), dict)
    assert not {"properties", "additionalProperties"} <= node.keys()


@pytest.mark.parametrize("node", _of_type("string"))
def test_a_string_is_bounded(node: Node) -> None:
    assert "maxLength" in node or "enum" in node


@pytest.mark.parametrize("node", _of_type("array"))
def test_a_list_is_bounded(node: Node) -> None:
    assert "maxItems" in node


@pytest.mark.parametrize("node", _of_type("object"))
def test_a_map_is_bounded(node: Node) -> None:
    assert "maxProperties" in node or "properties" in node


@pytest.mark.parametrize("node", [*_of_type("integer"), *_of_type("number")])
def test_a_number_has_a_whole_minimum(node: Node) -> None:
    """The API server cuts a fractional bound down when the value is a whole number: 0 would pass `minimum: 0.125`."""
    assert float(node.get("minimum", 0)).is_integer()


def test_few_nodes_are_free_form() -> None:
    assert {path for path, node in _NODES if node.get("x-kubernetes-preserve-unknown-fields")} == _FREE_FORM


def test_lists_of_named_things_are_keyed() -> None:
    keyed = {path: node["x-kubernetes-list-map-keys"] for path, node in _NODES if "x-kubernetes-list-map-keys" in node}
    assert keyed == {
        "spec.cluster.env": ["name"],
        "spec.cluster.volumes": ["name"],
        "spec.cluster.workers": ["name"],
        "status.stages": ["name"],
        "status.result.artifacts": ["name"],
        "status.conditions": ["type"],
        "status.attempts": ["number"],
        "status.workerGroups": ["name"],
    }


@pytest.mark.parametrize(("path", "node"), _NODES, ids=[path for path, _ in _NODES])
def test_a_field_is_described_in_a_sentence(path: str, node: Node) -> None:
    if path.endswith("[]"):
        return
    description = node["description"]
    assert 5 < len(description) < _MAX_DESCRIPTION
    assert description.endswith(".")


def test_the_status_has_no_defaults() -> None:
    """They would be filled into what the operator and the driver write, and belong to neither."""
    assert [path for path, node in _NODES if path.startswith("status") and "default" in node] == []


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item not in ([], {})}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("cluster", [None, {"workers": [{"name": "gpu", "max": 4}]}, {"head": {}}])
def test_the_server_fills_in_what_the_models_do(cluster: Node | None) -> None:
    given = minimal()["spec"] | ({"cluster": cluster} if cluster else {})
    stored = with_defaults(given, schema()["properties"]["spec"])
    assert _without_empty(stored) == _without_empty(ScalingJobSpec.model_validate(given).to_json_dict())


def test_the_name_is_bound_where_pods_are_named_after_it() -> None:
    rules = [entry["rule"] for entry in schema()["x-kubernetes-validations"]]
    assert f"self.metadata.name.size() <= {MAX_JOB_NAME}" in rules


def test_what_kubectl_get_shows() -> None:
    (version,) = crd()["spec"]["versions"]
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert names == ["Status", "Stage", "Progress", "Workers", "Score", "Age"]
    assert version["subresources"] == {"status": {}}
    assert crd()["spec"]["names"]["shortNames"] == ["sj"]
