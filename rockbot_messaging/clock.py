"""Time and identity are injected, never taken from the process.

Delays, deadlines and derived ids decide whether a message is lost or handled twice, so tests must be able to
drive both. Instants that cross the wire are integer milliseconds since the Unix epoch; durations are seconds.
"""

from __future__ import annotations

import time
import uuid
from typing import Protocol, final

__all__ = ["Clock", "IdSource", "RandomIds", "SystemClock"]


class Clock(Protocol):
    """Where instants and durations come from."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...


class IdSource(Protocol):
    """Where fresh (not derived) ids come from."""

    def new_id(self) -> str:
        """An id that nobody else has: 36 characters, the text form of a UUID."""
        ...


@final
class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


@final
class RandomIds:
    """Random UUIDs (RFC 9562, version 4)."""

    def new_id(self) -> str:
        return str(uuid.uuid4())
