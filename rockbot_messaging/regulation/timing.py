"""One timer on an injected clock, so that a minute's outage is proved in a millisecond.

A clock that can call back (the tests' one) does; for any other the event loop's timer is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, final, runtime_checkable

from rockbot_messaging.clock import Clock

__all__ = ["Timer"]


@runtime_checkable
class _CallingClock(Protocol):
    def call_at_ms(self, at_ms: int, callback: Callable[[], None]) -> None: ...


@final
class Timer:
    """Calls `ring` once, when the time it was last set to is over. Setting it again replaces that."""

    __slots__ = ("_clock", "_handle", "_number", "_ring")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._number = 0
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring after so many seconds; at once (not before the caller has returned) when they are not above 0."""
        self.cancel()
        seconds = max(0.0, seconds)
        if isinstance(self._clock, _CallingClock) and seconds:
            number = self._number
            self._clock.call_at_ms(self._clock.now_ms() + max(1, round(seconds * 1000)), lambda: self._rang(number))
        else:
            self._handle = asyncio.get_running_loop().call_later(seconds, self._rang, self._number)

    def cancel(self) -> None:
        """Do not ring."""
        self._number += 1
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rang(self, number: int) -> None:
        if number == self._number:
            self.cancel()
            self._ring()
