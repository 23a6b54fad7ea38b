"""What an exception from a handler means: the verdict that every provider makes of it, and what its class tells."""

from __future__ import annotations

import traceback
from typing import Final

from rockbot_messaging.verdicts import Retry

__all__ = ["as_retry", "is_about_the_message"]

#: Errors of a program that met something it was not written for, and of what it depends on being away.
_ABOUT_THE_MESSAGE: Final = frozenset(
    {
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "LookupError",
        "NameError",
        "NotImplementedError",
        "TypeError",
        "ValueError",
    }
)
_ABOUT_THE_WORLD: Final = frozenset({"EOFError", "MemoryError", "OSError", "TimeoutError"})

#: Classes that say nothing about an error.
_UNTOLD = (object, BaseException, Exception)


def as_retry(exc: Exception) -> Retry:
    """The verdict on a delivery whose handler raised `exc`."""
    return Retry(
        reason=" ".join(str(exc).split())[:500],
        error_type=type(exc).__name__,
        error_bases=tuple(base.__name__ for base in type(exc).__mro__[1:] if base not in _UNTOLD),
        traceback="".join(traceback.format_exception(exc)),
    )


def is_about_the_message(verdict: Retry) -> bool:
    """Whether a failure looks like one of this message (or of the program) and not of what handling depends on.

    Classes that nobody can place (RuntimeError, one of a library, none at all) do not: an outage must not be mistaken.
    """
    names = {verdict.error_type, *verdict.error_bases}
    return not names.isdisjoint(_ABOUT_THE_MESSAGE) and names.isdisjoint(_ABOUT_THE_WORLD)
