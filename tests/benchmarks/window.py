"""What is measured of one run: seconds and the CPU seconds of this very process between two messages.

The first messages only warm the process up. Connecting, importing and leaving are outside the window.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import pstats
import sys
import time
from collections.abc import Coroutine
from typing import Any, final

__all__ = ["Window", "report", "run"]


@final
class Window:
    """Opens after `warm_up` of `total` messages and closes with the last one."""

    def __init__(self, total: int, *, warm_up: int) -> None:
        self.total = total
        self.seen = 0
        self.full = asyncio.Event()
        self._warm_up = warm_up
        self._from = (0.0, 0.0)
        self._until = (0.0, 0.0)

    def open(self) -> None:
        """Begin now."""
        self._from = (time.perf_counter(), time.process_time())

    def close(self) -> None:
        """End now."""
        self._until = (time.perf_counter(), time.process_time())

    def count(self) -> None:
        """One more message was handled."""
        self.seen += 1
        if self.seen == self._warm_up:
            self.open()
        elif self.seen == self.total:
            self.close()
            self.full.set()

    def result(self) -> dict[str, float]:
        """Messages per second and CPU seconds per 10,000 messages inside the window."""
        messages = self.total - self._warm_up
        seconds = self._until[0] - self._from[0]
        cpu = self._until[1] - self._from[1]
        return {"rate": messages / seconds, "cpu": cpu / messages * 10_000}


def report(result: dict[str, float]) -> None:
    """Hand a result to the process that started this one: the last line it prints."""
    print(json.dumps(result), flush=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a contender; with ROCKBOT_BENCH_PROFILE set, say on standard error where its time went."""
    if not os.environ.get("ROCKBOT_BENCH_PROFILE"):
        asyncio.run(main)
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        asyncio.run(main)
    finally:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(45)
