"""What a running tool tells of itself, on its way to watchers: at once, from any thread, and never in the tool's way.

At most one message of a call is under way; what is told meanwhile waits, and only the newest of it. It may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import final

__all__ = ["Progress"]

logger = logging.getLogger(__name__)


@final
class Progress:
    """The progress of one call; `publish` is given text, fraction and a number that counts from 1."""

    def __init__(self, publish: Callable[[str, float | None, int], Awaitable[None]]) -> None:
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._latest: tuple[str, float | None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._number = 0
        self._closed = False

    def tell(self, text: str, fraction: float | None) -> None:
        """Note it; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody watches any more
            self._loop.call_soon_threadsafe(self._told, text, fraction)

    async def close(self) -> None:
        """The call is over: send what waits, then nothing any more."""
        await asyncio.sleep(0)  # what was told in the call's last moment
        self._closed = True
        if self._sending is not None:
            await asyncio.wait({self._sending})

    def _told(self, text: str, fraction: float | None) -> None:
        if self._closed:
            return
        self._latest = (text, fraction)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="progress of a tool")

    async def _send(self) -> None:
        while self._latest is not None:
            (text, fraction), self._latest = self._latest, None
            self._number += 1
            try:
                await self._publish(text, fraction, self._number)
            except Exception as exc:
                logger.debug("progress of a tool was lost", extra={"error": f"{type(exc).__name__}: {exc}"})
