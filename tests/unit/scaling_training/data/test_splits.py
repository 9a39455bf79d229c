from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_training.data.splits import Fractions, stratified_split
from scaling_training.errors import UserError

FRACTIONS = Fractions(train=0.7, validation=0.1, test=0.2)


@settings(deadline=None)
@given(counts=st.lists(st.integers(10, 60), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_each_index_is_in_one_part_and_each_class_in_proportion(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratified_split(labels, FRACTIONS, seed=seed)

    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        for label, count in enumerate(counts):
            assert abs(np.count_nonzero(labels[part] == label) - share * count) <= 1


def test_another_seed_gives_another_split() -> None:
    labels = np.zeros(100, dtype=np.int64)
    first, second = (stratified_split(labels, FRACTIONS, seed=seed)[2] for seed in (1, 2))
    assert first.tolist() != second.tolist()


def test_a_class_too_small_for_every_part_is_named() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    with pytest.raises(UserError, match="class 1 has 3 samples"):
        stratified_split(labels, FRACTIONS, seed=0)


def test_fractions_must_add_up() -> None:
    with pytest.raises(ValueError, match="does not add up"):
        Fractions(train=0.7, validation=0.2, test=0.2)
