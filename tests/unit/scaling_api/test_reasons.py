from __future__ import annotations

import pickle
import re

import pytest

from scaling_api.reasons import ConditionType, Described, Failure, Reason

_WORDS: list[Described] = [*ConditionType, *Failure, *Reason]


@pytest.mark.parametrize("word", _WORDS, ids=str)
def test_a_word_is_one_word_with_a_sentence(word: Described) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]+", word.value)  # what the API server takes for a condition's reason
    assert word.description.endswith(".")


def test_failures_and_other_reasons_differ() -> None:
    assert not set(map(str, Failure)) & set(map(str, Reason))


def test_a_word_is_its_text() -> None:
    assert Failure("OutOfMemory") is Failure.OUT_OF_MEMORY
    assert f"{Failure.OUT_OF_MEMORY}" == "OutOfMemory"
    assert pickle.loads(pickle.dumps(Failure.OUT_OF_MEMORY)) is Failure.OUT_OF_MEMORY
