"""What docs/data.md shows and names is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scaling_api.spec import Augmentation, DatasetSpec
from scaling_training.data import DATASETS

TEXT = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


def test_the_section_shown_is_right() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    DatasetSpec.model_validate(yaml.safe_load(shown)["dataset"])


@pytest.mark.parametrize("word", [*DATASETS, *(field.alias for field in Augmentation.model_fields.values())])
def test_every_data_set_and_augmentation_is_explained(word: str) -> None:
    assert f"`{word}" in TEXT
