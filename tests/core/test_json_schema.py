"""The schema checker: what is valid, what is not, and whether a model could act on what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from rockbot.json_schema import problems

TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "n": {"type": "integer"}},
            "required": ["n"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer"}, [1, -2, 3.0], [1.5, "1", True, None]),
        ({"type": "number"}, [1, 1.5], [True, "1"]),
        ({"type": ["string", "null"]}, ["", None], [0]),
        ({"enum": ["a", 1, None]}, ["a", 1, 1.0, None], ["b", True]),
        ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [1, 2]}, {"a": [True]}]),
        ({"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"}, ["ab", "abc"], ["a", "abcd", "ba"]),
        ({"pattern": "("}, ["anything"], []),
        ({"minimum": 1, "exclusiveMaximum": 3, "multipleOf": 0.5}, [1, 2.5, "x"], [0, 3, 1.2]),
        ({"maximum": 1, "exclusiveMinimum": 0}, [1, 0.5], [0, 2]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True}, [[1, 2]], [[], [1, 1], ["a"]]),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["a"], []], [[1], ["a", 2]]),
        ({"contains": {"const": 1}, "maxItems": 2}, [[1], [2, 1]], [[], [2], [1, 2, 3]]),
        (
            {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
            [{"a": 1}],
            [{}, {"a": "1"}, {"a": 1, "b": 2}],
        ),
        ({"additionalProperties": {"type": "string"}, "minProperties": 1}, [{"x": "y"}], [{}, {"x": 1}]),
        (
            {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False, "propertyNames": {"maxLength": 2}},
            [{"x1": 1}, {}],
            [{"x1": "a"}, {"y": 1}, {"x12": 1}],
        ),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, ["a", 4], [1]),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, [1, 3.5], [4, 2.5]),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1], [0, 3]),
        ({"not": {"type": "null"}}, [0], [None]),
        ({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"minimum": 1}}, ["a", 1], ["", 0]),
        (TREE, [{"n": 1, "next": {"n": 2, "next": None}}], [{"n": 1, "next": {"next": None}}, {"n": 1, "next": 3}]),
        ({"$ref": "#/$defs/none"}, [], [1]),
        (True, [1], []),
        (False, [], [1]),
        ({"format": "email", "unheard of": 1}, ["no address"], []),
    ],
)  # fmt: skip
def test_words_of_the_standard(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    assert [value for value in valid if problems(schema, value)] == []
    assert [value for value in invalid if not problems(schema, value)] == []


def test_a_problem_names_its_place_and_what_is_wanted() -> None:
    schema = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"properties": {"name": {"type": "string"}}}}},
        "required": ["items", "total"],
        "additionalProperties": False,
    }
    assert problems(schema, {"items": [{"name": "a"}, {"name": 5}], "sum": 1}) == [
        '$: "total" is missing',
        "$.items[1].name: must be string, not 5",
        '$.sum: there is no such property (allowed: "items")',
    ]


def test_of_alternatives_the_closest_is_told() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["a", "b"]}]}
    (told,) = problems(schema, {"a": 1})
    assert told == ('$: fits none of the 2 alternatives; the closest says: $: must be string, not {"a": 1}')


def test_not_everything_is_told_at_once() -> None:
    assert len(problems({"items": {"type": "string"}}, list(range(100)))) == 8


def test_a_schema_that_goes_round_in_circles_is_a_problem_and_no_hang() -> None:
    assert problems({"$ref": "#"}, 1)


class Line(BaseModel):
    name: str = Field(min_length=1, max_length=5)
    count: int = Field(ge=0, le=9)
    note: str | None = None
    inner: Line | None = None


_LINES = TypeAdapter(list[Line])
_VALUES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.text("abc", max_size=7) | st.none(),
            "count": st.integers(-2, 12) | st.floats(0, 1),
            "note": st.text("x", max_size=2) | st.none() | st.integers(0, 1),
            "inner": st.none() | st.just({"name": "a", "count": 1}) | st.just({"name": ""}),
        },
    ),
    max_size=3,
)


@given(_VALUES)
def test_it_says_of_a_model_s_schema_what_the_model_says(value: list[dict[str, Any]]) -> None:
    try:
        _LINES.validate_json(json.dumps(value), strict=True)
        valid = True
    except ValidationError:
        valid = False
    assert (problems(_LINES.json_schema(), value) == []) is valid
