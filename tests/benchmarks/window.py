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
from pathlib import Path
from typing import Any, final

__all__ = ["Phases", "Window", "report", "run"]


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

    async def work(self) -> None:
        """A handler's work that is nothing but being counted."""
        self.count()

    def result(self) -> dict[str, float]:
        """Messages per second and CPU seconds per 10,000 messages inside the window."""
        messages = self.total - self._warm_up
        seconds = self._until[0] - self._from[0]
        cpu = self._until[1] - self._from[1]
        return {"rate": messages / seconds, "cpu": cpu / messages * 10_000}


@final
class Phases:
    """The work of a consumer's handler: for the first half of the messages none, then it waits once for the event loop.

    A handler that never waits flatters whoever starts no task for it; one that waits is what real handlers do.
    """

    def __init__(self, total: int) -> None:
        half = total // 2
        self._plain = Window(half, warm_up=half // 10)
        self._waiting = Window(total - half, warm_up=half // 10)

    async def work(self) -> None:
        """Handle one message."""
        if self._plain.seen < self._plain.total:
            self._plain.count()
        else:
            await asyncio.sleep(0)
            self._waiting.count()

    async def done(self) -> dict[str, dict[str, float]]:
        """Wait for all messages; the results."""
        await self._waiting.full.wait()
        return {"consume": self._plain.result(), "consume, handler waits": self._waiting.result()}


def report(result: dict[str, dict[str, float]]) -> None:
    """Hand results by name to the process that started this one: the last line it prints."""
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
        print(f"{Path(sys.argv[0]).stem} {sys.argv[1]}", file=sys.stderr)
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(45)
