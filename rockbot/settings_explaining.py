"""What is wrong with settings, told to whoever wrote them: the key, where it stands, what was expected, what was meant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Final, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from rockbot.settings_sources import Source, has, is_setting

__all__ = ["ENVIRONMENT", "explain", "near", "unreadable"]

#: The name of that source.
ENVIRONMENT: Final = "the environment"
_LIST_IN_JSON: Final = 'for example ["one", "two"]'
#: What a kind of error says to people who write TOML.
_EXPECTED: Final = {"tuple_type": "expected a list", "dict_type": "expected a table", "model_type": "expected a table"}


def explain(exc: ValidationError, sources: Sequence[Source], root: type[BaseModel]) -> str:
    """Every error of `exc`: which key, where it was read, what is wrong."""
    lines = []
    for error in exc.errors(include_url=False, include_input=False):
        path = [str(part) for part in error["loc"]]
        known = path[:-1] if error["type"] == "missing" else path
        origin = next((source for source in reversed(sources) if known and has(source.values, known)), None)
        where = f" (from {origin.at(path)})" if origin else ""
        if error["type"] == "extra_forbidden":
            lines.append(f"unknown setting {'.'.join(path)!r}{where}{near(path[-1], path[:-1], root)}")
        else:
            message = _EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ")
            if error["type"] == "tuple_type" and origin is not None and origin.name == ENVIRONMENT:
                message += f", in the environment as JSON, {_LIST_IN_JSON}"
            lines.append(f"setting {'.'.join(path)!r}{where}: {message}" if path else message)
    return "; ".join(lines)


def unreadable(exc: SettingsError, environment: Mapping[str, str], root: type[BaseModel]) -> str:
    """Which variable holds no JSON although a list or a table is due there; the library names the field and no variable."""
    wrong = [name for name, value in environment.items() if is_setting(name) and _is_no_json(name, value, root)]
    names = f"the environment variable {' or '.join(wrong)}" if wrong else f"an environment variable ({exc})"
    return f"{names} cannot be read: a list or a table stands there as JSON, {_LIST_IN_JSON}"


def _is_no_json(name: str, value: str, root: type[BaseModel]) -> bool:
    field = root.model_fields.get(name.removeprefix("ROCKBOT_").lower())
    if field is None or not _is_structure(field.annotation):
        return False
    try:
        json.loads(value)
    except ValueError:
        return True
    return False


def _is_structure(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, dict) or _is_model(annotation)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def near(key: str, section: Sequence[str], root: type[BaseModel]) -> str:
    """What a key of a section of `root` was probably meant to be, as the end of a sentence."""
    import difflib

    close = difflib.get_close_matches(key, _keys_of(section, root), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _keys_of(section: Sequence[str], root: type[BaseModel]) -> list[str]:
    where: Any = root
    for part in section:
        if _is_model(where):
            field = where.model_fields.get(part)
            where = None if field is None else field.annotation
        else:  # tables have their type behind that of their names, lists before an ellipsis
            inner = get_args(where)
            where = inner[-1 if get_origin(where) is dict else 0] if inner else None
        if get_origin(where) in (Union, UnionType):
            where = next((one for one in get_args(where) if _is_structure(one)), None)
    return list(where.model_fields) if _is_model(where) else []
