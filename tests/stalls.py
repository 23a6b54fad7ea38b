"""A pytest plugin that holds tests up at random moments, to find those whose outcome depends on the machine's speed.

Use: PYTHONPATH=tests python -m pytest -p stalls -n 8 tests/messaging

While a test runs, its thread sleeps some times for STALL_SECONDS (1.5), as if the machine had been taken away: everything
that waits is late, everything that measures sees a jump. Whoever fails then would fail on a busy machine.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType

import pytest

_SECONDS = float(os.environ.get("STALL_SECONDS", "1.5"))
_MOST = 6
_SOONEST, _LATEST = 0.0005, 2.0
# The tests' own random numbers stay what they would be.
_RANDOM = random.SystemRandom()


def _sleep(_signal: int, _frame: FrameType | None) -> None:
    time.sleep(_SECONDS)


def _stall(over: threading.Event) -> None:
    for _ in range(_MOST):
        delay = math.exp(_RANDOM.uniform(math.log(_SOONEST), math.log(_LATEST)))
        if over.wait(delay):
            return
        os.kill(os.getpid(), signal.SIGUSR2)
        if over.wait(_SECONDS):
            return


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hold up the test, not what its fixtures do."""
    before = signal.signal(signal.SIGUSR2, _sleep)
    over = threading.Event()
    thread = threading.Thread(target=_stall, args=(over,), daemon=True)
    thread.start()
    try:
        return (yield)
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR2, before)
