"""Whether an attempt's Secret holds what a job asks for."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from scaling_operator.resources.attempt import render_attempt
from scaling_operator.resources.size import MAX_BYTES, check_size
from scaling_operator.settings import Settings
from tests.unit.scaling_operator.builders import EVERY_OPTION, job

GROUPS = [{"name": f"g{number}"} for number in range(16)]


def _env(count: int, value: str) -> dict[str, Any]:
    return {"env": [{"name": f"V{number}", "value": value} for number in range(count)]}


def _annotated(size: int) -> dict[str, Any]:
    return {"podOverrides": {"metadata": {"annotations": {"note": "x" * size}}}, "workers": GROUPS}


@pytest.mark.parametrize(
    ("cluster", "fits"),
    [
        pytest.param(EVERY_OPTION["cluster"], True, id="every option"),
        pytest.param(_env(59, "x" * 4096), True, id="as much as the spec's rule lets through"),
        pytest.param(_env(59, "ä" * 4096), False, id="which counts characters, and these take six bytes in JSON"),
        pytest.param(_env(10, "ä" * 4096), True, id="not so many of them"),
        pytest.param(_env(9, "x" * 4096) | {"workers": GROUPS}, True, id="many groups"),
        pytest.param(_annotated(40_000), True, id="long overrides"),
        pytest.param(_annotated(60_000), False, id="longer ones, which each of so many groups has"),
    ],
)
def test_sizes(cluster: dict[str, Any], fits: bool) -> None:
    spec = {"cluster": cluster}
    problems = check_size(job(spec))
    assert (problems == []) is fits
    rendered = render_attempt(
        job(spec), attempt=7, settings=Settings(), ray_token="0" * 64, ca_bundle="-----BEGIN" * 300
    )
    size = sum(len(base64.b64decode(value)) for value in rendered.secret["data"].values())
    assert (size <= MAX_BYTES) is fits
    assert all("takes 1,024" in problem for problem in problems)
