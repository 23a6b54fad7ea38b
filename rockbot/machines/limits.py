"""How much one turn may use, and when people are told that it comes near: pure arithmetic over what was used so far.

A limit is looked at where the next thing would begin. So a turn may end above one by the last call it made, and never makes
another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.models import Usage

__all__ = ["NOTICES", "LimitName", "Limits", "Notice", "Used", "exceeded", "notices"]

LimitName = Literal["model_calls", "tool_calls", "tokens", "cost"]

#: Percentages of a limit at which watchers are told.
NOTICES: Final = (80, 100)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@final
class Limits(_Frozen):
    """Bounds of one turn; None is no bound.

    `tokens` counts those of all its model calls, in and out; `cost` is in the currency of the price table; `seconds` is wall
    clock, without the time in which the turn waited for people.
    """

    model_calls: int = Field(default=25, ge=1)
    tool_calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=1)
    cost: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)


@final
class Used(_Frozen):
    """What a turn has used. `cost` is None as long as no call told what it cost."""

    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    cost: float | None = None

    @property
    def tokens(self) -> int:
        """All tokens, those read from and written to a cache included."""
        of = self.usage
        return of.input_tokens + of.output_tokens + of.cache_read_tokens + of.cache_write_tokens


@final
class Notice(_Frozen):
    """`percent` of a limit are used: `used` of `limit`."""

    name: LimitName
    percent: int
    used: float
    limit: float

    @property
    def text(self) -> str:
        """A sentence for people."""
        return f"{self.percent} % of the limit of {self.limit:g} {_WORDS[self.name]} are used ({self.used:g})"


_WORDS: Final[dict[LimitName, str]] = {
    "model_calls": "model calls",
    "tool_calls": "tool calls",
    "tokens": "tokens",
    "cost": "in money",
}


def exceeded(limits: Limits, used: Used, *, more_tools: int = 0) -> tuple[LimitName, float] | None:
    """The limit that forbids another model call after `more_tools` tool calls, with its value; None when none does."""
    if used.model_calls >= limits.model_calls:
        return "model_calls", limits.model_calls
    if limits.tool_calls is not None and used.tool_calls + more_tools > limits.tool_calls:
        return "tool_calls", limits.tool_calls
    for name, limit, so_far in _amounts(limits, used):
        if name in ("tokens", "cost") and so_far >= limit:
            return name, limit
    return None


def notices(limits: Limits, before: Used, after: Used) -> list[Notice]:
    """What is to be told when `before` became `after`: each threshold that was crossed, once."""
    earlier = {name: so_far for name, _, so_far in _amounts(limits, before)}
    told = []
    for name, limit, so_far in _amounts(limits, after):
        for percent in NOTICES:
            mark = limit * percent / 100
            if earlier[name] < mark <= so_far:
                told.append(Notice(name=name, percent=percent, used=so_far, limit=limit))
    return told


def _amounts(limits: Limits, used: Used) -> Iterator[tuple[LimitName, float, float]]:
    yield "model_calls", limits.model_calls, used.model_calls
    if limits.tool_calls is not None:
        yield "tool_calls", limits.tool_calls, used.tool_calls
    if limits.tokens is not None:
        yield "tokens", limits.tokens, used.tokens
    if limits.cost is not None:
        yield "cost", limits.cost, used.cost or 0.0
