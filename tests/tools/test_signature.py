"""From functions to tools: the schema that a model sees is what is checked, and nothing of a wrong value is repeated."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from rockbot.tools import ToolContext, ToolDefinitionError, ToolError, Toolset


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    count: int = 1


def tool_of(function: Any, **options: Any) -> Any:
    toolset = Toolset("desk")
    toolset.tool(**options)(function)
    (made,) = toolset
    return made


async def order(
    items: list[Item],
    due: date,
    context: ToolContext,
    colour: Colour = Colour.RED,
    schema: Annotated[str, Field(max_length=3, description="Of three letters.")] = "std",
    size: Literal["s", "m"] | None = None,
) -> str:
    """Order things.

    They are brought on the day.

    Args:
        items: What is wanted,
            each with its number.
        due (date): When.

    Returns:
        due: not a parameter here.
    """
    return "ok"


def test_a_function_becomes_a_schema_with_what_its_docstring_says() -> None:
    made = tool_of(order)
    assert (made.spec.name, made.spec.toolset) == ("order", "desk")
    assert made.spec.description == "Order things.\n\nThey are brought on the day."
    schema = made.spec.input_schema
    assert set(schema["properties"]) == {"items", "due", "colour", "schema", "size"}
    assert schema["required"] == ["items", "due"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["items"]["description"] == "What is wanted, each with its number."
    assert schema["properties"]["due"] == {"description": "When.", "format": "date", "type": "string"}
    assert schema["properties"]["schema"]["description"] == "Of three letters."
    assert "title" not in schema["properties"]["due"]
    assert "title" not in schema


def test_arguments_are_read_as_json_has_them_and_defaults_filled_in() -> None:
    given = tool_of(order).signature.arguments({"items": [{"name": "cup"}], "due": "2026-02-01", "colour": "red"})
    assert given == {
        "items": [Item(name="cup")],
        "due": date(2026, 2, 1),
        "colour": Colour.RED,
        "schema": "std",
        "size": None,
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"items": None}, "items: Input should be a valid array"),
        ({"items": [{"name": "cup", "count": "s3cret"}]}, "items.0.count: Input should be a valid integer"),
        ({"due": "s3cret"}, "due: Input should be a valid date"),
        ({"size": "s3cret"}, "size: Input should be 's' or 'm'"),
        ({"schema": "s3cret"}, "schema: String should have at most 3 characters"),
        ({"color": "red"}, "color: Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_expected_and_without_its_value(
    change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ToolError) as raised:
        tool_of(order).signature.arguments({"items": [], "due": "2026-02-01", **change})
    assert told in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert "(arguments: items, due, colour, schema, size)" in str(raised.value)


def test_a_number_in_quotes_is_no_number() -> None:
    def pay(amount: int) -> None:
        """Pay."""

    with pytest.raises(ToolError, match="amount: Input should be a valid integer"):
        tool_of(pay).signature.arguments({"amount": "5"})


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]), st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers())
    )
)
def test_arguments_fit_or_are_refused_in_words(arguments: dict[str, Any]) -> None:
    def pair(a: int, b: str = "x") -> None:
        """Pair."""

    try:
        read = tool_of(pair).signature.arguments(arguments)
    except ToolError:
        assert type(arguments.get("a")) is not int or not isinstance(arguments.get("b", ""), str) or "c" in arguments
    else:
        assert read == {"b": "x", **arguments}


def _no_annotation(a):  # type: ignore[no-untyped-def]
    """A tool."""


def _positional(a: int, /) -> None:
    """A tool."""


def _star(*a: int) -> None:
    """A tool."""


def _names(**a: int) -> None:
    """A tool."""


def _odd(a: ToolError) -> None:
    """A tool."""


def _unknown(a: NotThere) -> None:  # type: ignore[name-defined] # noqa: F821
    """A tool."""


def _silent(a: int) -> None: ...


def _stream(a: int) -> Any:
    """A tool."""
    yield a


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_no_annotation, "parameter 'a' has no annotation"),
        (_positional, "parameter 'a' is positional only"),
        (_star, "parameter 'a' takes any number"),
        (_names, "parameter 'a' takes any names"),
        (_odd, "_odd cannot be a tool: Unable to generate pydantic-core schema"),
        (_unknown, "its annotation 'NotThere' is not known"),
        (_silent, "without a docstring"),
        (_stream, "it is a generator"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_where_it_is_written(function: Any, told: str) -> None:
    with pytest.raises(ToolDefinitionError, match=told):
        tool_of(function)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "no spaces"}, "name: String should match"),
        ({"timeout": 0}, "timeout_seconds: Input should be greater than 0"),
        ({"across_replicas": True}, "max_concurrency counts, and there is none"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolDefinitionError, match=told):
        tool_of(order, **options)


def test_a_decorated_function_stays_what_it_was_and_its_name_is_taken_once() -> None:
    toolset = Toolset("desk")

    @toolset.tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert add(2, 3) == 5
    with pytest.raises(ToolDefinitionError, match="has a tool 'add' already"):
        toolset.tool(add)


def test_flags_are_those_of_the_decorator() -> None:
    spec = tool_of(
        order, name="buy", description="Buys.", idempotent=True, needs_approval=True, on_exhausted="tell_model", timeout=5,
        deadline=50, max_concurrency=2, across_replicas=True, output_limit=500,
    ).spec  # fmt: skip
    assert (spec.name, spec.description, spec.idempotent, spec.read_only) == ("buy", "Buys.", True, False)
    assert (spec.needs_approval, spec.on_exhausted) == (True, "tell_model")
    assert (spec.timeout_seconds, spec.deadline_seconds) == (5, 50)
    assert (spec.max_concurrency, spec.across_replicas, spec.output_limit) == (2, True, 500)
