"""What an exception from a handler means, said as the verdict that every provider makes of it: a counted Retry."""

from __future__ import annotations

import traceback

from rockbot_messaging.verdicts import Retry

__all__ = ["as_retry"]

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
