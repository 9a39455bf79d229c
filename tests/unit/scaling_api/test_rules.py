"""Rules and constraints as mechanisms; that each is right is shown by the refusals."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pytest
from pydantic import Field, ValidationError

from scaling_api.base import Model, Rule, violations
from scaling_api.constraints import KeyedBy, Pattern, cel_format, cel_string
from scaling_api.crd import schema_of

_ORDER = Rule("self.low <= self.high", lambda self: self.low <= self.high, "low {low} is above high {high}", "low")
_COUNT = Rule("self.count != 13", lambda self: self.count != 13, "13 is 'unlucky'", "")
_WORD = Pattern(r"[a-z]+", "a word: use lower-case letters")


class _Range(Model):
    """A range."""

    low: float = 0.0
    high: float = 1.0

    rules: ClassVar[tuple[Rule, ...]] = (_ORDER,)


class _Holder(Model):
    """Ranges, in every place a model can be."""

    count: int = 0
    one: _Range = Field(default_factory=_Range)
    many: list[_Range] = Field(default_factory=list, max_length=3)
    maybe: _Range | None = None

    rules: ClassVar[tuple[Rule, ...]] = (_COUNT,)


class _Named(Model):
    """A named thing."""

    name: Annotated[str, Field(max_length=5), _WORD]


class _Names(Model):
    """Named things."""

    items: Annotated[list[_Named], KeyedBy("name")] = Field(default_factory=list, max_length=3)


def test_a_rule_quotes_values() -> None:
    assert _ORDER.message(_Range(low=2, high=1.5)) == "low 2 is above high 1.5"


def test_the_same_sentence_in_cel() -> None:
    assert _ORDER.validation() == {
        "rule": "self.low <= self.high",
        "message": "low <low> is above high <high>",
        "messageExpression": "'low %s is above high %s'.format([self.low, self.high])",
        "fieldPath": ".low",
    }


def test_a_rule_that_quotes_nothing_needs_no_expression() -> None:
    assert _COUNT.validation() == {"rule": "self.count != 13", "message": "13 is 'unlucky'"}


def test_violations_are_found_everywhere_outermost_first() -> None:
    wrong = _Range(low=3, high=2)
    holder = _Holder(count=13, one=wrong, many=[_Range(), wrong], maybe=wrong)
    assert [found.path for found in violations(holder, ("spec",))] == [
        ("spec",),
        ("spec", "one", "low"),
        ("spec", "many", 1, "low"),
        ("spec", "maybe", "low"),
    ]


def test_no_violations_when_all_rules_hold() -> None:
    assert list(violations(_Holder(many=[_Range()], maybe=_Range()))) == []


def test_rules_stand_at_their_model_in_the_schema() -> None:
    node = schema_of(_Holder)
    assert node["x-kubernetes-validations"] == [_COUNT.validation()]
    for place in (node["properties"]["one"], node["properties"]["many"]["items"], node["properties"]["maybe"]):
        assert place["x-kubernetes-validations"] == [_ORDER.validation()]


@pytest.mark.parametrize("value", ["A", "a1", "", "a\n", "ab cd"])
def test_a_pattern_covers_the_whole_value(value: str) -> None:
    with pytest.raises(ValidationError) as error:
        _Named(name=value)
    assert error.value.errors()[0]["msg"] == f'"{value}" is not a word: use lower-case letters'


def test_a_pattern_in_cel() -> None:
    assert schema_of(_Named)["properties"]["name"]["x-kubernetes-validations"] == [
        {
            "rule": "self.matches('^([a-z]+)$')",
            "message": "the value is not a word: use lower-case letters",
            "messageExpression": "'\"%s\" is not a word: use lower-case letters'.format([self])",
        }
    ]


def test_a_second_item_of_a_name_is_refused_where_it_stands() -> None:
    with pytest.raises(ValidationError) as error:
        _Names(items=[_Named(name="a"), _Named(name="b"), _Named(name="a")])
    (detail,) = error.value.errors()
    assert (detail["loc"], detail["ctx"]["index"]) == (("items",), 2)


@pytest.mark.parametrize(
    ("text", "literal"), [("it's", r"'it\'s'"), (r"\d", r"'\\d'"), ("", "''")], ids=["quote", "backslash", "empty"]
)
def test_cel_literals_are_escaped(text: str, literal: str) -> None:
    assert cel_string(text) == literal


def test_cel_format() -> None:
    assert cel_format("a %s", "self.x") == "'a %s'.format([self.x])"


def test_models_are_strict_and_frozen() -> None:
    with pytest.raises(ValidationError, match="valid integer"):
        _Holder.model_validate({"count": "1"})
    with pytest.raises(ValidationError, match="finite"):
        _Range(low=float("nan"))
    with pytest.raises(ValidationError, match="frozen"):
        _Range().low = 3.0  # type: ignore[misc]
