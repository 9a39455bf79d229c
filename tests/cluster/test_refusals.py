"""The API server's half of the refusals: the same cases as offline, the same verdict, the same field blamed.

Nothing runs here; a control plane with the CRD is enough. Requests are dry runs with strict field validation,
which is what `kubectl apply` asks for.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import yaml

from scaling_api.validation import check, check_edit
from tests.cases.case import Case, Change, Edit, minimal
from tests.cases.mutations import manifest as random_manifest
from tests.cases.refusals import ACCEPTED, EDITS, REFUSED
from tests.cluster.crd import KIND as _KIND
from tests.cluster.crd import install_crd
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import ApiError, Client

_STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
_SEED = 3
_RANDOM_MANIFESTS = 300
_RANDOM_EDITS = 50
_REFUSALS = (400, 422)  # strict decoding; validation


@pytest.fixture(scope="module")
def server(client: Client) -> Client:
    """A server that knows the CRD; that it takes it at all says the rules are cheap enough."""
    install_crd(client)
    return client


def _post(server: Client, manifest: dict[str, Any]) -> dict[str, Any]:
    return server.request("POST", server.path(_KIND, "default"), body=manifest, parameters=_STRICT)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(case: Case, server: Client) -> None:
    with pytest.raises(ApiError) as refusal:
        _post(server, case.manifest())
    assert refusal.value.code in _REFUSALS
    # limits[memory] and limits.memory are both the server's; "ObjectMeta" is its name for metadata.
    message = refusal.value.message.replace("limits[memory]", "limits.memory").replace("ObjectMeta.", "metadata.")
    assert case.path in message
    if case.same_words:
        assert case.fragment in message


@pytest.mark.parametrize(("id_", "change"), ACCEPTED, ids=[id_ for id_, _ in ACCEPTED])
def test_accepted(id_: str, change: Change, server: Client) -> None:
    manifest = minimal()
    change(manifest)
    assert _post(server, manifest)["metadata"]["name"] == manifest["metadata"]["name"]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.id)
def test_edit(edit: Edit, server: Client) -> None:
    old, new = edit.manifests()
    name = old["metadata"]["name"]
    server.create(old, "default")
    path = server.path(_KIND, "default", name)
    try:
        created = server.patch(_KIND, name, {"status": old["status"]}, "default", subresource="status")
        new["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
        if edit.fragment is None:
            server.request("PUT", path, body=new, parameters=_STRICT)
            return
        with pytest.raises(ApiError, match=edit.fragment) as refusal:
            server.request("PUT", path, body=new, parameters=_STRICT)
        assert "spec: " in refusal.value.message
    finally:
        server.delete(_KIND, name, "default")


def _refusal(server: Client, method: str, path: str, manifest: dict[str, Any]) -> str | None:
    """What the server has against a manifest."""
    try:
        server.request(method, path, body=manifest, parameters=_STRICT)
    except ApiError as error:
        return error.message
    return None


def test_the_same_verdict_on_manifests_that_nobody_thought_of(server: Client) -> None:
    random = Random(_SEED)
    accepted = 0
    for _ in range(_RANDOM_MANIFESTS):
        manifest = random_manifest(random)
        refusal = _refusal(server, "POST", server.path(_KIND, "default"), manifest)
        problems = [str(problem) for problem in check(manifest)]
        assert (refusal is None) is (problems == []), (manifest, refusal, problems)
        accepted += refusal is None
    assert 0.2 < accepted / _RANDOM_MANIFESTS < 0.8


def test_the_same_verdict_on_edits_that_nobody_thought_of(server: Client) -> None:
    random = Random(_SEED)
    refused = compared = 0
    while compared < _RANDOM_EDITS:
        old, new = random_manifest(random), random_manifest(random)
        old["metadata"]["name"] = new["metadata"]["name"] = "edited"
        section = random.choice(sorted(new["spec"]))
        new["spec"] = {**old["spec"], section: new["spec"][section]}
        if check(old) or check(new):
            continue
        old["status"] = {"attempt": 1}
        server.create(old, "default")
        created = server.patch(_KIND, "edited", {"status": old["status"]}, "default", subresource="status")
        new["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
        refusal = _refusal(server, "PUT", server.path(_KIND, "default", "edited"), new)
        server.delete(_KIND, "edited", "default")
        problems = [str(problem) for problem in check_edit(old, new)]
        assert (refusal is None) is (problems == []), (old, new, refusal, problems)
        refused += refusal is not None
        compared += 1
    assert 0 < refused < compared


def test_kubectl_refuses_a_misspelt_field(server: Client, cluster: Access) -> None:
    manifest = minimal()
    manifest["spec"]["training"]["epoch"] = 3
    text = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(manifest), check=False)
    assert 'unknown field "spec.training.epoch"' in text
