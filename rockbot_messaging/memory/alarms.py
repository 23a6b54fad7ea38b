"""One alarm on an injected clock.

Delays must follow the clock that tests drive, without polling it. A clock that can call back (`FakeClock`) does; for any
other the event loop's timer is set and the clock asked again when it rings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, final, runtime_checkable

from rockbot_messaging.clock import Clock

__all__ = ["Alarm", "CallingClock"]

#: Seconds after which the clock is asked again at the latest: it may have been set.
_LONGEST_SLEEP: Final = 60.0


@runtime_checkable
class CallingClock(Protocol):
    """A clock that somebody moves, and that tells when it got somewhere."""

    def call_at_ms(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Call back once `now_ms()` has reached `at_ms`."""
        ...


@final
class Alarm:
    """Calls `ring` at or after the earliest instant it was set to; `ring` sets it anew."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._at_ms: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_ms: int) -> None:
        """Ring at `at_ms`, or earlier if that was asked for before."""
        if self._at_ms is not None and self._at_ms <= at_ms:
            return
        self.cancel()
        self._at_ms = at_ms
        if isinstance(self._clock, CallingClock):
            self._clock.call_at_ms(at_ms, lambda: self._wake(at_ms))
            return
        wait = min(_LONGEST_SLEEP, max(0.0, (at_ms - self._clock.now_ms()) / 1000))
        self._timer = asyncio.get_running_loop().call_later(wait, self._wake, at_ms)

    def cancel(self) -> None:
        """Do not ring."""
        self._at_ms = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, at_ms: int) -> None:
        if self._at_ms == at_ms:
            self.cancel()
            self._ring()
