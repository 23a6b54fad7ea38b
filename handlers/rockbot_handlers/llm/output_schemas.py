"""How a model is told what shape its reply shall have, where its server cannot be told or cannot say it.

Servers take a part of JSON Schema only, each its own. What they are told is a help; what counts is checked afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from rockbot.events import LlmRequest

__all__ = ["is_closed", "is_strict", "with_instructions"]

_MANY: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONE: Final = ("items",)
_NAMED: Final = ("properties", "$defs")


def with_instructions(request: LlmRequest) -> LlmRequest:
    """The request with its schema in words, at the end of the system text; as it is when it has none."""
    if request.output_schema is None:
        return request
    schema = json.dumps(request.output_schema, ensure_ascii=False)
    words = (
        "Your final answer must be one JSON value and nothing else: no explanation, no code fence. It must be valid against this"
        f" JSON schema:\n{schema}"
    )
    return request.model_copy(update={"system": f"{request.system}\n\n{words}" if request.system.strip() else words})


def is_closed(schema: Mapping[str, Any]) -> bool:
    """Whether all properties of its objects are named, and every part of it says its type.

    A server that knows closed objects only would have a model leave out what an open one may hold.
    """
    for part in _parts(schema):
        if not isinstance(part, dict):
            return False
        if not any(name in part for name in ("type", "$ref", "enum", "const", "anyOf", "oneOf", "allOf")):
            return False
        if isinstance(part.get("type"), list) or "patternProperties" in part:
            return False
        if part.get("type") == "object" and ("properties" not in part or part.get("additionalProperties", False)):
            return False
    return True


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether its objects are closed by their own words, and require all that they name."""
    return is_closed(schema) and all(
        part.get("additionalProperties") is False and set(part.get("required", ())) == set(part["properties"])
        for part in _parts(schema)
        if part.get("type") == "object"
    )


def _parts(schema: Any) -> list[Any]:
    """A schema and all schemas within it."""
    found, open_ = [], [schema]
    while open_:
        part = open_.pop()
        found.append(part)
        if not isinstance(part, dict):
            continue
        open_ += [inner for name in _MANY if isinstance(part.get(name), list) for inner in part[name]]
        open_ += [part[name] for name in _ONE if name in part]
        open_ += [inner for name in _NAMED if isinstance(part.get(name), dict) for inner in part[name].values()]
    return found
