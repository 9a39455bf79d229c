"""Random manifests, right and wrong, made from the CRD's own schema: what nobody thought of in the table.

The same seed gives the same manifests.
"""

from __future__ import annotations

from random import Random
from typing import Any

from scaling_api.crd import schema
from tests.cases.case import Manifest, minimal

_ODD_SHARE = 0.04
_SET_SHARE = 0.35  # of the optional fields of a section
_SET_MOST = 2.0  # of them, on average
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3.5, 0.1, 1.0, 1e9, 2**31, 2**63),
    *("", "a", "A", "a b", "1", "-", "../x", "4Gi", "é", "x" * 64, "x" * 300, "日本", "a\n"),
    *([], {}, [1], {"a": 1}, [None], {"name": "a"}, [{"name": "a"}]),
)
_TEXTS = (
    *("a", "b", "abc", "runs", "x.y", "a-b", "a:1", "A_B", "TOKEN", "RAY_AUTH_X", "head", "é"),
    *("s3://bucket/x", "gs://b", "s3://a:b@c", "/data", "/data/x", "/tmp", "/home/scaling"),
)
_QUANTITIES = (0, 1, "1", "500m", "4Gi", "1.5", "1e3", -1)
_RESOURCES = ("cpu", "memory", "nvidia.com/gpu", "gpu", "ephemeral-storage", "A b/c", "")
_JOB_NAMES = ("a-", "A", "a" * 38, "a" * 39, "1", 5, None, "-a", "a_b")


def manifest(random: Random) -> Manifest:
    """The minimal manifest with one or two sections made up; about half of them are right."""
    made = minimal()
    sections = schema()["properties"]["spec"]["properties"]
    for section in random.sample(sorted(sections), random.randint(1, 2)):
        value, before = _value(random, sections[section]), made["spec"].get(section, {})
        made["spec"][section] = {**before, **value} if isinstance(value, dict) else value
    if random.random() < _ODD_SHARE:
        made["metadata"]["name"] = random.choice(_JOB_NAMES)
    return made


def _value(random: Random, node: dict[str, Any]) -> Any:
    """Something that a node of the schema could hold, seldom something that it could not."""
    if random.random() < _ODD_SHARE / 2:
        return random.choice(_ODD)
    if "x-kubernetes-int-or-string" in node:
        return random.choice(_QUANTITIES)
    if "enum" in node:
        return random.choice(node["enum"])
    match node["type"]:
        case "object" if node.get("properties"):
            required = node.get("required", [])
            # In a large section as many fields as in a small one: each may contradict another.
            share = min(_SET_SHARE, _SET_MOST / len(node["properties"]))
            chosen = {k: v for k, v in node["properties"].items() if k in required or random.random() < share}
            return {name: _value(random, child) for name, child in chosen.items()}
        case "object" if "additionalProperties" in node:
            keys = random.sample(_RESOURCES, random.randint(0, 3))
            return {key: _value(random, node["additionalProperties"]) for key in keys}
        case "object":
            return {"spec": {"anything": random.choice(_TEXTS)}}
        case "array":
            return [_value(random, node["items"]) for _ in range(random.choice((0, 1, 1, 2, 3)))]
        case "string":
            return random.choice(_TEXTS)
        case "boolean":
            return random.random() < 0.5
        case kind:
            return _number(random, node, whole=kind == "integer")


def _number(random: Random, node: dict[str, Any], *, whole: bool) -> float:
    low, high = node.get("minimum", 0), node.get("maximum", 100)
    number = random.choice((low, high, 1, 2, random.uniform(low, min(high, 10)), (low + high) / 2))
    return int(number) if whole or random.random() < 0.3 else number
