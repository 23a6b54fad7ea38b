"""A clock that stands still until a test moves it, so that an hour's delay is proved in a millisecond."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, final

__all__ = ["FakeClock"]

#: 2026-01-01T00:00:00Z, a whole second, so that formats that carry seconds only lose nothing of it.
_START_MS: Final = 1_767_225_600_000


@final
class FakeClock:
    """Implements `rockbot_messaging.clock.Clock`, and the alarms that the in-memory provider hangs its delays on.

    Both readings move together and only by `advance`. Milliseconds are counted as integers: advancing by 0.1 ten times
    is exactly one second.
    """

    def __init__(self, start_ms: int = _START_MS) -> None:
        self._start_ms = start_ms
        self._now_ms = start_ms
        self._alarms: list[tuple[int, int, Callable[[], None]]] = []
        self._set = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return (self._now_ms - self._start_ms) / 1000

    def call_at_ms(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Have `callback` called by the `advance` that reaches `at_ms`; at the next one if that has passed."""
        self._set += 1
        heapq.heappush(self._alarms, (at_ms, self._set, callback))

    def advance(self, seconds: float) -> None:
        """Let time go by. Alarms on the way are called in order, each at its own instant.

        Raises:
            ValueError: `seconds` is negative; this clock does not go back.
        """
        if seconds < 0:
            raise ValueError("a clock does not go back")
        until = self._now_ms + round(seconds * 1000)
        while self._alarms and self._alarms[0][0] <= until:
            at_ms, _, callback = heapq.heappop(self._alarms)
            self._now_ms = max(self._now_ms, at_ms)
            callback()
        self._now_ms = until
