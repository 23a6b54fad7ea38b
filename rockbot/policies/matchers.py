"""What a rule asks of one argument, and whether a value has it: yes, no, or it cannot be said.

The third answer is why a policy cannot be talked around. A tool may read ``"2000"`` as a number, or fill in a default; where a
rule about numbers meets a text, nobody can say whether it applies. A rule that forbids then counts as fitting, a rule that
allows does not.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final, final

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

__all__ = ["ArgumentMatcher", "any_glob"]

#: Characters of a text that a pattern is tried on; whether a longer one fits cannot be said.
_LONGEST_TEXT: Final = 10_000

Answer = bool | None


@final
class ArgumentMatcher(BaseModel):
    """All that is set must hold. A bare value means `equals`.

    `glob` and `regex` look at the whole text, case counts, and ``*`` also stands for slashes. `gt`, `ge`, `lt` and `le` are
    bounds of numbers. `present` says whether the argument is there at all. Of a list each item is asked, unless `equals` is a
    list itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    equals: Any = None
    one_of: tuple[Any, ...] | None = None
    glob: str | None = None
    regex: str | None = None
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    present: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return value if isinstance(value, dict | cls) else {"equals": value}

    @field_validator("equals", "one_of")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("arguments are JSON, and no argument can be that; write dates as text") from None
        return value

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}") from None
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> ArgumentMatcher:
        if all(value is None for _, value in self):
            raise ValueError(f"says nothing; it knows {', '.join(type(self).model_fields)}")
        return self

    def fits(self, found: Sequence[Any]) -> Answer:
        """Whether the argument has what is asked; `found` holds its value, or nothing when it is absent."""
        if self.present is not None and self.present is not bool(found):
            return False
        if not found:
            return self.present is False and all(value is None for name, value in self if name != "present")
        value = found[0]
        if isinstance(value, list | tuple) and not isinstance(self.equals, list | tuple):
            return _each([_all(self._asked(item)) for item in value])
        return _all(self._asked(value))

    def _asked(self, item: Any) -> Iterable[Answer]:
        if self.equals is not None:
            yield _equal(item, self.equals)
        if self.one_of is not None:
            yield _any(_equal(item, wanted) for wanted in self.one_of)
        for pattern in (self.glob and translate(self.glob), self.regex):
            if pattern is not None:
                known = isinstance(item, str) and len(item) <= _LONGEST_TEXT
                yield _compiled(pattern).fullmatch(item) is not None if known else None
        number = isinstance(item, int | float) and not isinstance(item, bool)
        bounds = ((operator.gt, self.gt), (operator.ge, self.ge), (operator.lt, self.lt), (operator.le, self.le))
        for holds, bound in bounds:
            if bound is not None:
                yield bool(holds(item, bound)) if number else None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def any_glob(patterns: Iterable[str], text: str) -> bool:
    """Whether one of these globs is the whole of `text`."""
    return any(_compiled(translate(pattern)).fullmatch(text) for pattern in patterns)


def _equal(value: Any, wanted: Any) -> Answer:
    if _kind(value) == _kind(wanted):
        return bool(value == wanted)
    # A tool may read "5" as 5 or 1 as true; a list or an object it takes for neither.
    plain = {"text", "number", "truth"}
    return None if {_kind(value), _kind(wanted)} <= plain else False


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "truth"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list() | tuple():
            return "list"
        case dict():
            return "object"
    return "nothing"


def _all(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return False if False in found else (None if None in found else True)


def _any(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return True if True in found else (None if None in found else False)


def _each(answers: Sequence[Answer]) -> Answer:
    """Of a list: yes when every item is what is asked for, no when none is; of one that is mixed it cannot be said."""
    if not answers or all(answer is False for answer in answers):
        return False
    return True if all(answer is True for answer in answers) else None
