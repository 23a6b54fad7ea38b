"""The verdict on one delivery, as a value: what the broker is told is decided in one place, from data."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final, final

__all__ = ["Ack", "DeadLetter", "Retry", "Verdict", "failed_attempt"]


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
        error_bases: names of its base classes, nearest first, so that a policy for a class also covers its subclasses.
        traceback: of the last failure, if any; ends up in the dead letter.
        handler: name of the link that failed, if known.
    """

    after: float | None = None
    reason: str = ""
    counted: bool = True
    error_type: str = ""
    error_bases: tuple[str, ...] = ()
    traceback: str = ""
    handler: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Never like this: keep it where a person can read why.

    Args:
        reason: one line for that person.
        error_type: name of the error class behind it, if any.
        traceback: of the failure, if any.
        handler: name of the link that failed, if known.
    """

    reason: str
    error_type: str = ""
    traceback: str = ""
    handler: str = ""


Verdict = Ack | Retry | DeadLetter

#: Classes that say nothing about an error.
_UNTOLD: Final = (object, BaseException, Exception)


def failed_attempt(exc: BaseException) -> Retry:
    """The verdict on a delivery whose handler raised `exc` instead of giving one."""
    try:
        reason = " ".join(str(exc).split())[:500]
    except Exception:  # an error that cannot even say what it is
        reason = ""
    kind = type(exc)
    return Retry(
        reason=_sayable(reason),
        error_type=kind.__name__,
        error_bases=tuple(base.__name__ for base in kind.__mro__[1:] if base not in _UNTOLD),
        traceback=_sayable("".join(traceback.format_exception(exc))),
    )


def _sayable(text: str) -> str:
    """`text` without what UTF-8 cannot say."""
    return text.encode("utf-8", "backslashreplace").decode()
