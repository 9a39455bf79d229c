from __future__ import annotations

from typing import Any

import pytest

from scaling_api.driver import WorkerBounds
from scaling_api.spec import ScalingJobSpec
from scaling_training.engine.sizing import Sizing, plan_workers, unused_gpus

MIG, SHARED = "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"
GPU = {"limits": {"nvidia.com/gpu": "2"}}


def spec(*groups: dict[str, Any], data: int | None = None, batch: int = 128, **axes: int) -> ScalingJobSpec:
    return ScalingJobSpec.model_validate(
        {
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits"},
            "training": {"epochs": 1, "batchSize": batch, "parallelism": axes | ({"data": data} if data else {})},
            "cluster": {"workers": list(groups)} if groups else {},
        }
    )


def group(name: str = "cpu", **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


def bounds(least: int, most: int, name: str = "cpu") -> WorkerBounds:
    return WorkerBounds(name=name, min=least, max=most)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param(spec(group(max=4), data=3), Sizing(3, 3, 3, 0), id="a number is kept"),
        pytest.param(
            spec(group(min=2, max=4)), Sizing(2, 4, 128, 0), id="without one: from min, for max, up to the batch"
        ),
        pytest.param(spec(group(min=1, max=2, slots=4)), Sizing(4, 8, 128, 0), id="each pod counts with its slots"),
        pytest.param(
            spec(group("a", min=1, max=1), group("b", min=0, max=3)), Sizing(1, 4, 128, 0), id="groups add up"
        ),
        pytest.param(spec(group(min=0, max=2)), Sizing(1, 2, 128, 0), id="never with none"),
        pytest.param(spec(group(min=2, max=8), batch=4), Sizing(2, 4, 4, 0), id="never more than samples in a step"),
        pytest.param(spec(group(max=8), data=2, fsdp=2, tensor=2), Sizing(8, 8, 8, 0, 4), id="a number times the axes"),
        pytest.param(spec(group(min=3, max=7), tensor=2), Sizing(2, 6, 256, 0, 2), id="whole model groups only"),
        pytest.param(
            spec(group(min=1, max=9), fsdp=2, tensor=2), Sizing(4, 8, 256, 0, 4), id="at least one model group"
        ),
        pytest.param(
            spec(group(max=9), fsdp=2, tensor=2, batch=5), Sizing(4, 8, 8, 0, 4), id="a sample for each shard"
        ),
        pytest.param(spec(group(min=1, max=1, slots=2, resources=GPU)), Sizing(2, 2, 128, 1), id="a GPU each"),
        pytest.param(spec(group(resources={"limits": {MIG: "1"}})), Sizing(1, 1, 128, 1), id="a slice of a GPU each"),
        pytest.param(
            spec(group(resources={"limits": {SHARED: "1"}})), Sizing(1, 1, 128, 1), id="a share of a GPU each"
        ),
        pytest.param(
            spec(group("a", max=1, resources=GPU), group("b", max=1)),
            Sizing(2, 2, 128, 0),
            id="GPUs only if all have one",
        ),
    ],
)
def test_on_a_cluster(job: ScalingJobSpec, expected: Sizing) -> None:
    assert plan_workers(job, on_cluster=True, local_gpus=8) == expected


@pytest.mark.parametrize(
    ("job", "edited", "expected"),
    [
        pytest.param(spec(group(min=2, max=4)), [bounds(1, 6)], Sizing(1, 6, 128, 0), id="both, with its slots"),
        pytest.param(spec(group(min=2, max=4, slots=2)), [bounds(3, 3)], Sizing(6, 6, 128, 0), id="of pods"),
        pytest.param(
            spec(group("a", min=1, max=1), group("b", min=2, max=3)),
            [bounds(0, 1, "b")],
            Sizing(1, 2, 128, 0),
            id="of one group",
        ),
        pytest.param(spec(group(min=2, max=4)), [bounds(1, 1, "new")], Sizing(2, 4, 128, 0), id="of an unknown group"),
        pytest.param(spec(group(max=4), data=3), [bounds(1, 1)], Sizing(3, 3, 3, 0), id="a number is kept"),
    ],
)
def test_edits_of_a_running_job(job: ScalingJobSpec, edited: list[WorkerBounds], expected: Sizing) -> None:
    assert plan_workers(job, on_cluster=True, local_gpus=0, edited=edited) == expected


@pytest.mark.parametrize(
    ("job", "gpus", "expected"),
    [
        pytest.param(spec(data=2), 0, Sizing(2, 2, 2, 0), id="a number is kept"),
        pytest.param(spec(), 0, Sizing(1, 1, 1, 0), id="one without GPUs"),
        pytest.param(spec(), 4, Sizing(4, 4, 4, 1), id="one per GPU"),
        pytest.param(spec(tensor=2), 5, Sizing(4, 4, 4, 1, 2), id="whole model groups of GPUs"),
        pytest.param(spec(fsdp=2), 0, Sizing(2, 2, 2, 0, 2), id="one model group without GPUs"),
        pytest.param(spec(data=4), 2, Sizing(4, 4, 4, 0), id="too few GPUs: on CPUs"),
        pytest.param(spec(group(min=3, max=9)), 0, Sizing(1, 1, 1, 0), id="groups are the cluster's"),
    ],
)
def test_on_one_machine(job: ScalingJobSpec, gpus: int, expected: Sizing) -> None:
    assert plan_workers(job, on_cluster=False, local_gpus=gpus) == expected


@pytest.mark.parametrize(
    ("job", "on_cluster", "gpus", "said"),
    [
        pytest.param(spec(data=4), False, 2, "4 training processes need a GPU each, and there are 2", id="too few"),
        pytest.param(spec(data=4), False, 0, None, id="none on this machine"),
        pytest.param(spec(data=2), False, 2, None, id="used"),
        pytest.param(
            spec(group("a", max=1, resources=GPU), group("b", max=1)),
            True,
            0,
            "of cluster.workers a has GPUs and b has none",
            id="a group without",
        ),
        pytest.param(spec(group("a", max=1, resources=GPU)), True, 0, None, id="used on a cluster"),
        pytest.param(spec(group(max=1)), True, 8, None, id="the driver's own machine does not count"),
    ],
)
def test_gpus_that_stay_unused_are_spoken_of(
    job: ScalingJobSpec, on_cluster: bool, gpus: int, said: str | None
) -> None:
    sizing = plan_workers(job, on_cluster=on_cluster, local_gpus=gpus)
    found = unused_gpus(job, sizing, on_cluster=on_cluster, local_gpus=gpus)
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")


def test_elastic_means_that_the_number_may_change() -> None:
    assert plan_workers(spec(group(min=1, max=2)), on_cluster=True, local_gpus=0).elastic
    assert not plan_workers(spec(group(max=2), data=2), on_cluster=True, local_gpus=0).elastic


@pytest.mark.parametrize(("slots", "workers"), [(2, 2), (3, 2), (4, 4), (9, 6)])
def test_slots_that_make_no_whole_group_stay_idle(slots: int, workers: int) -> None:
    assert Sizing(2, 4, 6, 0, group=2).whole_groups(slots) == workers


@pytest.mark.parametrize(
    ("workers", "slots", "has_room"),
    [
        pytest.param(2, 2, False, id="all slots train"),
        pytest.param(2, 3, False, id="the free slot makes no whole group"),
        pytest.param(2, 4, True, id="a whole group more"),
        pytest.param(2, 5, True, id="a whole group more and a slot"),
        pytest.param(6, 9, False, id="the most train already"),
        pytest.param(4, 3, False, id="a slot was lost"),
    ],
)
def test_a_group_grows_by_whole_model_groups(workers: int, slots: int, has_room: bool) -> None:
    assert Sizing(2, 4, 6, 0, group=2).has_room(workers, slots=slots) == has_room
