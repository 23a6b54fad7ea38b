"""How long a provider asks to wait, as HTTP says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["THROTTLE_SECONDS", "retry_after"]

#: Seconds to wait when the API is throttling and does not say how long.
THROTTLE_SECONDS: Final = 5.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``retry-after-ms`` or ``retry-after`` (RFC 9110, section 10.2.3) ask to wait, if they make sense.

    A date is compared with the answer's own ``date``, so that the clocks need not agree.
    """
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())
