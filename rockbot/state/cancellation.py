"""Keeps a cancellation that a client library swallows.

`asyncio.wait_for` of Python 3.11 returns a result that is there when its caller is cancelled, and the cancellation is lost;
Redis's client sends every command so. Whoever cancels a task and waits for its end would wait for ever.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import final

__all__ = ["KeptCancellation"]


@final
class KeptCancellation:
    """A context for one call: a task that was cancelled inside it leaves it as cancelled, whatever came out."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None or (kind is not None and not issubclass(kind, Exception)):
            return
        if self._task.cancelling() > self._before:
            raise asyncio.CancelledError
