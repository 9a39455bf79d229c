from __future__ import annotations

import copy
from typing import Any

import pytest

from scaling_api.spec import PodOverrides
from scaling_operator.resources.overrides import apply_overrides, check_overrides, merge


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        pytest.param({"status": {}}, "podOverrides.status", id="neither metadata nor spec"),
        pytest.param({"spec": {"containers": []}}, "spec.containers", id="containers"),
        pytest.param({"spec": {"hostNetwork": True}}, "spec.hostNetwork", id="host network"),
        pytest.param({"spec": {"securityContext": {}}}, "spec.securityContext", id="security"),
        pytest.param({"spec": {"serviceAccountName": "x"}}, "spec.serviceAccountName", id="service account"),
        pytest.param({"spec": {"volumes": []}}, "spec.volumes", id="volumes"),
        pytest.param({"spec": []}, "podOverrides.spec must be a map", id="spec of another type"),
        pytest.param({"spec": {"tolerations": {}}}, "tolerations must be a list of maps", id="not a list"),
        pytest.param({"spec": {"nodeSelector": {"a": 1}}}, "nodeSelector must be a map of strings", id="number"),
        pytest.param({"spec": {"terminationGracePeriodSeconds": True}}, "whole number of seconds", id="boolean"),
        pytest.param({"spec": {"terminationGracePeriodSeconds": 0}}, "from 1 to 86400", id="no grace"),
        pytest.param({"metadata": {"name": "x"}}, "metadata.name", id="name"),
        pytest.param({"metadata": {"labels": {"scaling.dev/job": "x"}}}, "scaling.dev/job", id="the operator's label"),
        pytest.param({"metadata": {"labels": {"ray.io/cluster": "x"}}}, "ray.io/cluster", id="ray's label"),
        pytest.param({"spec": {"dnsPolicy": "Default"}}, "by those of the node alone", id="DNS that knows no Services"),
        pytest.param(
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}, "managed-by", id="the cache's label"
        ),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_path(overrides: Any, named: str) -> None:
    (sentence,) = check_overrides(PodOverrides(**overrides))
    assert named in sentence
    assert sentence.startswith("spec.cluster.podOverrides")


def test_everything_that_the_description_lists_is_allowed() -> None:
    overrides = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}},
        "spec": {
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1}],
            "priorityClassName": "high",
            "runtimeClassName": "gvisor",
            "schedulerName": "volcano",
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1"]},
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
            "terminationGracePeriodSeconds": 600,
        },
    }
    assert check_overrides(PodOverrides(**overrides)) == []
    assert check_overrides(None) == []


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        pytest.param({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}, id="maps key by key"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}, id="maps in maps"),
        pytest.param([1, 2], [3], [3], id="plain lists are replaced"),
        pytest.param({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="another type replaces"),
        pytest.param(
            [{"name": "a", "x": 1}, {"name": "b"}],
            [{"name": "a", "y": 2}, {"name": "c"}],
            [{"name": "a", "x": 1, "y": 2}, {"name": "b"}, {"name": "c"}],
            id="records by name",
        ),
        pytest.param([{"name": "a"}, {"name": "a"}], [{"name": "b"}], [{"name": "b"}], id="a name of two names none"),
    ],
)
def test_merge(below: Any, above: Any, merged: Any) -> None:
    before = copy.deepcopy((below, above))
    assert merge(below, above) == merged
    assert (below, above) == before


_UNREACHABLE = {"key": "unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([{"key": "gpu"}], [_UNREACHABLE, {"key": "gpu"}], id="another taint's"),
        pytest.param([{"operator": "Exists"}], [_UNREACHABLE, {"operator": "Exists"}], id="one for all taints"),
        pytest.param(
            [{"key": "gpu", "effect": "NoExecute"}, {"key": "gpu", "effect": "NoSchedule"}],
            [_UNREACHABLE, {"key": "gpu", "effect": "NoExecute"}, {"key": "gpu", "effect": "NoSchedule"}],
            id="two of one key",
        ),
        pytest.param(
            [{"key": "unreachable", "tolerationSeconds": 300}],
            [{**_UNREACHABLE, "tolerationSeconds": 300}],
            id="another time for the operator's",
        ),
        pytest.param(
            [{"key": "unreachable", "operator": "Exists", "effect": "NoSchedule"}],
            [_UNREACHABLE, {"key": "unreachable", "operator": "Exists", "effect": "NoSchedule"}],
            id="another effect of its taint",
        ),
        pytest.param([], [_UNREACHABLE], id="none"),
    ],
)
def test_tolerations_come_on_top_of_the_operators(given: list[Any], expected: list[Any]) -> None:
    pod = {"spec": {"tolerations": [_UNREACHABLE]}}
    assert apply_overrides(pod, PodOverrides(spec={"tolerations": given}))["spec"]["tolerations"] == expected
