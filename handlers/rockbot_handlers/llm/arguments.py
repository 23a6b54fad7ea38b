"""The arguments of a tool call as models write them: usually a JSON object, sometimes not."""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["read_arguments"]

#: Longest part of malformed arguments that is shown to the model.
_MAX_SHOWN: Final = 300


def read_arguments(given: object) -> tuple[dict[str, Any], str]:
    """The arguments and no problem, or none and what the model has to know."""
    value = given
    if isinstance(given, str) and given.strip():
        try:
            value = json.loads(given, parse_constant=_no_constant)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as exc:
            told = exc.msg if isinstance(exc, json.JSONDecodeError) else str(exc)
            shown = given.encode("utf-8", "replace").decode()
            shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]} [{len(shown) - _MAX_SHOWN} omitted]"
            return {}, f"the arguments are no valid JSON ({told}); they began: {shown}"
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return {}, ""
    if not isinstance(value, dict):
        return {}, f"the arguments must be a JSON object, not {type(value).__name__}"
    return value, ""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
