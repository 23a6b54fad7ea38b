"""The verdict on one delivery, as a value: what the broker is told is decided in one place, from data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Ack", "DeadLetter", "Retry", "Verdict"]


@final
@dataclass(frozen=True, slots=True)
class Ack:
    """Handled (or a known copy): forget it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Not now.

    Args:
        after: seconds to wait at least, None for what the subscription's policy says; never handled earlier.
        reason: one line for the person who will read the history.
        counted: False hands the message back without costing an attempt (throttled, newer schema, drain).
        error_type: name of the error class behind it, if any.
        traceback: of the last failure, if any; ends up in the dead letter.
    """

    after: float | None = None
    reason: str = ""
    counted: bool = True
    error_type: str = ""
    traceback: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Never like this: keep it where a person can read why.

    Args:
        reason: one line for that person.
        error_type: name of the error class behind it, if any.
        traceback: of the failure, if any.
    """

    reason: str
    error_type: str = ""
    traceback: str = ""


Verdict = Ack | Retry | DeadLetter
