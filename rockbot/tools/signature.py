"""From a function to the schema of its arguments, and from a model's arguments to those of the function.

Both come from one pydantic model, so that what the schema promises is what is checked. Checking is strict: a schema that says
integer means no text, and a policy that looked at the arguments has seen what the function gets.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from rockbot.events.registry import explain
from rockbot.tools.context import ToolContext
from rockbot.tools.errors import ToolDefinitionError, ToolError

__all__ = ["Signature"]

_UNSUPPORTED: Final[Mapping[Any, str]] = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional only",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values",
    inspect.Parameter.VAR_KEYWORD: "takes any names",
}
_SECTION: Final = re.compile(r"^(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
_DESCRIBED: Final = re.compile(r"^\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.+(?:\n\s{6,}.+)*)", re.MULTILINE)


class _Untitled(GenerateJsonSchema):
    """Titles that repeat a property's name are tokens for nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes: `context` names the parameter that gets the `ToolContext`, if there is one."""

    model: type[BaseModel]
    fields: Mapping[str, str]
    schema: dict[str, Any]
    description: str
    context: str | None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Read a function's annotations, defaults and docstring (its ``Args:`` describe the parameters).

        Raises:
            ToolDefinitionError: a parameter has no annotation, or none that a schema can be made of.
        """
        hints = _hints(function)
        description, described = _docstring(function)
        fields: dict[str, str] = {}
        definitions: dict[str, Any] = {}
        context = None
        for parameter in inspect.signature(function).parameters.values():
            name = parameter.name
            if hints.get(name) is ToolContext:
                context = name
                continue
            if (why := _UNSUPPORTED.get(parameter.kind)) is not None:
                raise _wrong(function, name, f"{why}; a tool's arguments are given by name")
            if name not in hints:
                raise _wrong(function, name, "has no annotation, of which its schema is made")
            more: dict[str, Any] = {"description": described[name]} if name in described else {}
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            # Any name may be a parameter's; not every one can be a field's.
            fields[name] = f"argument_{len(fields)}"
            definitions[fields[name]] = (hints[name], Field(default, alias=name, **more))
        try:
            config = ConfigDict(extra="forbid", strict=True, frozen=True)
            model = create_model(f"{function.__name__}_arguments", __config__=config, **definitions)
            schema = model.model_json_schema(schema_generator=_Untitled)
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError) as exc:
            raise ToolDefinitionError(f"{_name(function)} cannot be a tool: {str(exc).splitlines()[0]}") from None
        schema.pop("title", None)
        schema.setdefault("properties", {})
        return cls(model, fields, schema, description, context)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The function's arguments, without the context.

        Raises:
            ToolError: they do not fit; the text names the fields and what is expected, and quotes no value.
        """
        try:
            # As JSON, so that dates, enumerations and tuples are read as JSON has them.
            checked = self.model.model_validate_json(json.dumps(given), strict=True)
        except ValidationError as exc:
            known = ", ".join(self.fields) or "none"
            raise ToolError(
                f"the tool was not called, its arguments do not fit: {explain(exc)} (arguments: {known})"
            ) from None
        return {name: getattr(checked, field) for name, field in self.fields.items()}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise ToolDefinitionError(
            f"{_name(function)} cannot be a tool: its annotation {exc.name!r} is not known in its module at run time"
        ) from None
    hints.pop("return", None)
    return hints


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What stands before the section of the arguments, and what it says of each."""
    text = inspect.getdoc(function) or ""
    parts = _SECTION.split(text, maxsplit=1)
    described = {}
    if len(parts) == 2:
        section = re.split(r"^\S", parts[1], maxsplit=1, flags=re.MULTILINE)[0]
        described = {name: " ".join(said.split()) for name, said in _DESCRIBED.findall(section)}
    return parts[0].strip(), described


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__


def _wrong(function: Callable[..., Any], parameter: str, why: str) -> ToolDefinitionError:
    return ToolDefinitionError(f"{_name(function)} cannot be a tool: its parameter {parameter!r} {why}")
