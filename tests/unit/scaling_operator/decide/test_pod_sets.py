"""The pods of a cluster, as one kind of value."""

from __future__ import annotations

from scaling_api import names
from scaling_api.names import ROLE_HEAD, ROLE_WORKER, WorkerSlot
from scaling_operator.decide.pod_sets import HEAD_SET, PodSet, pod_sets, workers_among
from scaling_operator.resources.attempt import render_attempt
from scaling_operator.settings import Settings
from tests.unit.scaling_operator import builders

GROUPS = {"workers": [{"name": "gpu", "min": 1, "max": 4}, {"name": "cpu", "min": 0, "max": 2}]}


def test_the_head_and_the_groups_are_sets() -> None:
    sets = pod_sets(builders.job({"cluster": GROUPS}).spec.cluster)
    assert sets == (
        PodSet(HEAD_SET, ROLE_HEAD, 1, 1),
        PodSet("gpu", ROLE_WORKER, 4, 1),
        PodSet("cpu", ROLE_WORKER, 2, 0),
    )
    assert workers_among(sets) == sets[1:]
    assert list(sets[2].slots) == [WorkerSlot("cpu", 0), WorkerSlot("cpu", 1)]


def test_each_set_has_a_template_of_its_name_and_role() -> None:
    job = builders.job({"cluster": GROUPS})
    rendered = render_attempt(job, attempt=1, settings=Settings(), ray_token="", ca_bundle="")
    templates = {HEAD_SET: rendered.head, **rendered.worker_templates}
    sets = pod_sets(job.spec.cluster)
    assert list(templates) == [one.name for one in sets]
    assert [templates[one.name]["metadata"]["labels"][names.LABEL_ROLE] for one in sets] == [one.role for one in sets]
