"""Checks a JSON value against a JSON schema (draft 2020-12), and says what is wrong in words that a model can act on.

Pure, and no more than what schemas of tools and replies use: references within the schema, types, objects, arrays, texts,
numbers, enumerations, combinations, conditions. Formats are notes, as the standard has it; unknown words are passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import unquote

__all__ = ["problems"]

#: Problems that are told at once.
_MOST: Final = 8
#: References within references; beyond, a schema goes round in circles.
_DEEPEST: Final = 100
_SHOWN: Final = 60

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(schema: Mapping[str, Any] | bool, value: Any) -> list[str]:
    """What is wrong with `value`, a line each, the first ones only; empty when it is valid.

    A line begins with the place: ``$`` is the value, ``$.items[2].name`` a name within it.
    """
    found = []
    for line in _Checker(schema).check(schema, value, "$", 0):
        found.append(line)
        if len(found) == _MOST:
            break
    return found


@final
class _Checker:
    """Checks parts of one schema."""

    def __init__(self, root: Mapping[str, Any] | bool) -> None:
        self._root = root

    def check(self, schema: Any, value: Any, at: str, depth: int) -> Iterator[str]:
        if schema is True or schema is None:
            return
        if schema is False:
            yield f"{at}: nothing is allowed here"
            return
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            yield f"{at}: the schema for this place is no schema"
            return
        if "$ref" in schema:
            yield from self.check(self._referred(schema["$ref"]), value, at, depth + 1)
        if (kinds := schema.get("type")) is not None and not _is_of(value, kinds):
            wanted = " or ".join(kinds) if isinstance(kinds, list) else kinds
            yield f"{at}: must be {wanted}, not {_shown(value)}"
            return
        if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
            yield f"{at}: must be one of {', '.join(map(_shown, schema['enum']))}, not {_shown(value)}"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{at}: must be {_shown(schema['const'])}, not {_shown(value)}"
        match value:
            case dict():
                yield from self._object(schema, value, at, depth)
            case list():
                yield from self._array(schema, value, at, depth)
            case str():
                yield from _text(schema, value, at)
            case int() | float() if not isinstance(value, bool):
                yield from _number(schema, value, at)
        yield from self._combined(schema, value, at, depth)

    def _referred(self, reference: object) -> Any:
        target: Any = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return {"not": {}}
        for word in reference.lstrip("#").split("/")[1:]:
            name = unquote(word).replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                return {"not": {}}
        return target

    def _object(self, schema: Mapping[str, Any], value: dict[str, Any], at: str, depth: int) -> Iterator[str]:
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{at}: {_shown(name)} is missing"
        named = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        for name, inner in value.items():
            place = f"{at}.{name}" if name.isidentifier() else f"{at}[{_shown(name)}]"
            known = name in named
            if known:
                yield from self.check(named[name], inner, place, depth + 1)
            for pattern, part in patterns.items():
                if _found(pattern, name):
                    known = True
                    yield from self.check(part, inner, place, depth + 1)
            if not known and "additionalProperties" in schema:
                further = schema["additionalProperties"]
                if further is False:
                    allowed = ", ".join(map(_shown, named)) or "none"
                    yield f"{place}: there is no such property (allowed: {allowed})"
                else:
                    yield from self.check(further, inner, place, depth + 1)
            if "propertyNames" in schema:
                yield from self.check(schema["propertyNames"], name, f"{place} (its name)", depth + 1)
        yield from _sized(schema, len(value), at, "Properties", "properties")

    def _array(self, schema: Mapping[str, Any], value: list[Any], at: str, depth: int) -> Iterator[str]:
        first: Sequence[Any] = schema.get("prefixItems", ())
        for number, inner in enumerate(value):
            part = first[number] if number < len(first) else schema.get("items", True)
            yield from self.check(part, inner, f"{at}[{number}]", depth + 1)
        if schema.get("uniqueItems") and any(
            _same(one, other) for number, one in enumerate(value) for other in value[:number]
        ):
            yield f"{at}: the items must differ from each other"
        if "contains" in schema and not any(self._fits(schema["contains"], each, depth) for each in value):
            yield f"{at}: none of the items is what one of them must be"
        yield from _sized(schema, len(value), at, "Items", "items")

    def _combined(self, schema: Mapping[str, Any], value: Any, at: str, depth: int) -> Iterator[str]:
        for part in schema.get("allOf", ()):
            yield from self.check(part, value, at, depth + 1)
        if (any_of := schema.get("anyOf")) is not None and not any(self._fits(part, value, depth) for part in any_of):
            yield from self._closest(any_of, value, at, depth)
        if (one_of := schema.get("oneOf")) is not None:
            fitting = sum(self._fits(part, value, depth) for part in one_of)
            if fitting > 1:
                yield f"{at}: fits {fitting} of the alternatives, and must fit one"
            elif not fitting:
                yield from self._closest(one_of, value, at, depth)
        if "not" in schema and self._fits(schema["not"], value, depth):
            yield f"{at}: {_shown(value)} is what it must not be"
        if "if" in schema:
            branch = "then" if self._fits(schema["if"], value, depth) else "else"
            yield from self.check(schema.get(branch, True), value, at, depth + 1)

    def _fits(self, schema: Any, value: Any, depth: int) -> bool:
        return next(self.check(schema, value, "$", depth + 1), None) is None

    def _closest(self, parts: Sequence[Any], value: Any, at: str, depth: int) -> Iterator[str]:
        """What is wrong by the alternative that has least against it: the one that was probably meant."""
        tried = [list(self.check(part, value, at, depth + 1)) for part in parts]
        told = min(tried, key=len, default=[])
        yield f"{at}: fits none of the {len(parts)} alternatives; the closest says: {'; '.join(told[:2]) or 'nothing'}"


def _is_of(value: Any, kinds: Any) -> bool:
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind == "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            if whole and not isinstance(value, bool):
                return True
        elif isinstance(value, _TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool)):
            return True
    return False


def _text(schema: Mapping[str, Any], value: str, at: str) -> Iterator[str]:
    yield from _sized(schema, len(value), at, "Length", "characters")
    if (pattern := schema.get("pattern")) is not None and not _found(pattern, value):
        yield f"{at}: {_shown(value)} does not match {pattern}"


def _number(schema: Mapping[str, Any], value: float, at: str) -> Iterator[str]:
    if (least := schema.get("minimum")) is not None and value < least:
        yield f"{at}: must be at least {least}, not {value}"
    if (most := schema.get("maximum")) is not None and value > most:
        yield f"{at}: must be at most {most}, not {value}"
    if (above := schema.get("exclusiveMinimum")) is not None and value <= above:
        yield f"{at}: must be above {above}, not {value}"
    if (below := schema.get("exclusiveMaximum")) is not None and value >= below:
        yield f"{at}: must be below {below}, not {value}"
    if step := schema.get("multipleOf"):
        times = value / step
        if not math.isfinite(times) or abs(times - round(times)) > 1e-9 * max(1.0, abs(times)):
            yield f"{at}: must be a multiple of {step}, not {value}"


def _sized(schema: Mapping[str, Any], size: int, at: str, word: str, what: str) -> Iterator[str]:
    if (least := schema.get(f"min{word}")) is not None and size < least:
        yield f"{at}: must have at least {least} {what}, not {size}"
    if (most := schema.get(f"max{word}")) is not None and size > most:
        yield f"{at}: must have at most {most} {what}, not {size}"


def _found(pattern: str, text: str) -> bool:
    """Whether the pattern is in the text. One that cannot be read here (it is ECMA's to begin with) forbids nothing."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: `true` is not 1, but 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
