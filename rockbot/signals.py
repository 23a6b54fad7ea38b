"""What the operating system tells a process: to stop, and to read its agents again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rockbot.agents.roster import Roster

__all__ = ["reload_on_hangup", "stop_on_signals"]


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set; the second signal of a kind has its usual effect."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def arrived(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, arrived, number)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextmanager
def reload_on_hangup(roster: Roster) -> Iterator[None]:
    """SIGHUP has the agents read again, except on a terminal: there it says that the terminal is gone."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[object]] = set()  # the loop alone would not keep them

    def arrived() -> None:
        task: asyncio.Task[object] = loop.create_task(roster.reload("SIGHUP"))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    if sys.stdin is not None and sys.stdin.isatty():
        yield
        return
    usual = signal.getsignal(signal.SIGHUP)
    loop.add_signal_handler(signal.SIGHUP, arrived)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if usual is not None:  # nohup, for one, has it ignored
            signal.signal(signal.SIGHUP, usual)
