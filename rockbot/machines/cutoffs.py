"""Cutting off a model that repeats itself: a call that failed again and again with the same arguments is not made once more.

Pure. What counts as the same call is the tool and the hash of its arguments; a success clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from pydantic import BaseModel, ConfigDict

__all__ = ["FailedCall", "cut_off", "noted"]


@final
class FailedCall(BaseModel):
    """A call by its tool and the hash of its arguments, and how often it failed in a row."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tool: str
    argument_hash: str
    times: int


def noted(failures: Sequence[FailedCall], tool: str, argument_hash: str, *, failed: bool) -> tuple[FailedCall, ...]:
    """The failures after one more call has come back."""
    others = tuple(each for each in failures if (each.tool, each.argument_hash) != (tool, argument_hash))
    if not failed:
        return others
    return (
        *others,
        FailedCall(tool=tool, argument_hash=argument_hash, times=_times(failures, tool, argument_hash) + 1),
    )


def cut_off(failures: Sequence[FailedCall], tool: str, argument_hash: str, *, limit: int) -> str:
    """What the model is told instead of the call being made; empty when it may be made. `limit` 0 is no limit."""
    times = _times(failures, tool, argument_hash)
    if not limit or times < limit:
        return ""
    return (
        f"{tool} was not called: it failed {times} times with exactly these arguments, and would fail again."
        " Change the arguments, use another tool, or answer without it."
    )


def _times(failures: Sequence[FailedCall], tool: str, argument_hash: str) -> int:
    return next((each.times for each in failures if (each.tool, each.argument_hash) == (tool, argument_hash)), 0)
