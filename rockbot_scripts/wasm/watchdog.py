"""Ends a run at its deadline from inside the worker.

At the deadline the guest is interrupted. A guest that sits in a call into the engine (a long wait) is not reached by
that; a little later the worker then answers with what was printed so far and ends itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, final

GRACE_SECONDS: Final = 0.2


@final
class Watchdog:
    """One thread that watches one run at a time. Threads are needed here: the run itself blocks its thread."""

    def __init__(self, interrupt: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._give_up = give_up
        self._changed = threading.Condition()
        self._wall: float | None = None
        self._serial = 0
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def arm(self, wall: float) -> None:
        """Begin to watch a run that may take `wall` seconds."""
        with self._changed:
            self._serial += 1
            self._wall = wall
            self._changed.notify()

    def disarm(self) -> None:
        """Stop watching. After this returns, the run is neither interrupted nor given up."""
        with self._changed:
            self._wall = None
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._wall is not None)
                serial = self._serial
                if not self._still(serial, self._wall or 0.0):
                    continue
                self._interrupt()
                if self._still(serial, GRACE_SECONDS):
                    self._give_up()

    def _still(self, serial: int, seconds: float) -> bool:
        """Wait and tell whether the same run is under way all that time."""

        def over() -> bool:
            return self._wall is None or self._serial != serial

        return not self._changed.wait_for(over, timeout=seconds)
