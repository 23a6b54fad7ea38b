"""Which model one call goes to, decided from data alone: the same routes, lane and size give the same choice, and say why.

Routes are part of an agent's snapshot, so that a turn keeps the choice it began with and a journal is folded alike by every
process. They come from `rockbot.catalogue.catalogue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, final, get_args

from pydantic import BaseModel, ConfigDict

__all__ = [
    "FALL_ON",
    "ROLES",
    "TIERS",
    "CallLane",
    "Choice",
    "FallReason",
    "ModelRoute",
    "ModelStep",
    "Role",
    "Tier",
    "choose",
]

#: What an agent calls a model for: its own turns, keeping memories, choosing who answers, work of a kind, work handed down.
Role = Literal["main", "memory", "router", "specialist", "subagent"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

Tier = Literal["fast", "balanced", "deep"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)

CallLane = Literal["interactive", "delegated", "scheduled"]

#: Why a call may go on to the next model of its chain: how the attempt ended, or that the backend's circuit is open.
FallReason = Literal["transient", "throttled", "unknown", "permanent", "breaker", "context_window"]
#: What a chain falls on unless it says otherwise. A wrong key or a malformed request is nothing to hide behind another model.
FALL_ON: Final[tuple[FallReason, ...]] = ("transient", "throttled", "unknown", "breaker")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@final
class ModelStep(_Frozen):
    """One model of a chain, ``<provider>/<model>``; `context_window` in tokens, None when it is not known."""

    model: str
    context_window: int | None = None

    def holds(self, tokens: int) -> bool:
        """Whether so many tokens of input fit."""
        return self.context_window is None or tokens <= self.context_window


@final
class Choice(_Frozen):
    """The model of one call, those that follow when it fails in one of the ways of `fall_on`, and why it is this one."""

    model: str
    fallbacks: tuple[str, ...] = ()
    fall_on: tuple[FallReason, ...] = ()
    why: str = ""

    @property
    def backend(self) -> str:
        """The word of the topic that its workers listen to."""
        return self.model.partition("/")[0]


@final
class ModelRoute(_Frozen):
    """A chain of models and the calls that it is for.

    `lanes` empty means all of them. `min_input_tokens` and `max_input_tokens` (None: no bound) are inclusive. `why` says which
    setting it comes from.
    """

    steps: tuple[ModelStep, ...]
    fall_on: tuple[FallReason, ...] = ()
    lanes: tuple[CallLane, ...] = ()
    min_input_tokens: int = 0
    max_input_tokens: int | None = None
    why: str = ""

    def misses(self, lane: CallLane, tokens: int) -> str:
        """Why a call is none of this route's; empty when it is."""
        if self.lanes and lane not in self.lanes:
            return f"it is for the lane {' or '.join(self.lanes)}, not {lane}"
        if tokens < self.min_input_tokens:
            return f"it is for {self.min_input_tokens} input tokens and more, not {tokens}"
        if self.max_input_tokens is not None and tokens > self.max_input_tokens:
            return f"it is for at most {self.max_input_tokens} input tokens, not {tokens}"
        return ""

    def chosen(self, tokens: int) -> Choice:
        """The first model that the input fits into, with those behind it; the first of all when it fits none."""
        start = next((at for at, step in enumerate(self.steps) if step.holds(tokens)), 0)
        why = self.why
        if start:
            why += f"; {tokens} input tokens do not fit {self.steps[0].model} ({self.steps[0].context_window})"
        model, *others = (step.model for step in self.steps[start:])
        return Choice(model=model, fallbacks=tuple(others), fall_on=self.fall_on if others else (), why=why)


def choose(routes: Sequence[ModelRoute], *, lane: CallLane, tokens: int) -> Choice:
    """The choice of the first route that fits, of the last one when none does.

    Raises:
        ValueError: there are no routes.
    """
    if not routes:
        raise ValueError("there are no routes to choose from")
    fitting = next((route for route in routes if not route.misses(lane, tokens)), routes[-1])
    return fitting.chosen(tokens)
