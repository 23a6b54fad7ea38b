"""One attempt's text on its way to watchers: batched, keyed, and stored so far for those who come late.

Told beside the model call, never in its way: pieces are only put down here, one task publishes and stores them, and a slow or
absent broker makes the batches larger. Nothing of it can fail the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar, final

from rockbot.settings_streaming import StreamingSettings

__all__ = ["LiveText", "Telling"]

logger = logging.getLogger(__name__)

_Told = TypeVar("_Told")

#: Seconds that a delta or a snapshot may take.
_PARTING: Final = 2.0


class Telling(Protocol):
    """Where the text goes."""

    async def publish(self, *, sequence: int, offset: int, text: str, done: bool) -> None:
        """Send one delta; it may be lost."""
        ...

    async def keep(self, *, sequence: int, text: str, done: bool) -> bool:
        """Store the text that the deltas below `sequence` make; False when a later attempt has done so."""
        ...


@final
class LiveText:
    """Begun by `start`, ended by `finish` and then `keep`, or by `abandon` or `drop`.

    `monotonic` says when the next snapshot is due.
    """

    def __init__(self, telling: Telling, settings: StreamingSettings, *, monotonic: Callable[[], float]) -> None:
        self._telling = telling
        self._settings = settings
        self._monotonic = monotonic
        self._pending = ""
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._text = ""
        self._sequence = 0
        self._unkept = 0
        self._kept_at = monotonic()
        self._superseded = self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.create_task(self._tell(), name="tell a reply")

    def add(self, text: str) -> None:
        """Take a piece; never waits."""
        self._pending += text
        if self._pending:
            self._arrived.set()
        if len(self._pending) >= self._settings.batch_chars:
            self._full.set()

    async def finish(self, text: str, *, again: bool = False) -> bool:
        """Tell the rest, and that the reply is done. False: what was told is not its text, and is not called done.

        A reply without text is told only if it comes `again`: then it takes back what an earlier attempt may have told.
        """
        await self._stop()
        rest = self._take(whole=True)
        if self._text + rest != _sayable(text):
            return False
        if self._text or rest or again:
            await self._publish(rest, done=True)
        return True

    async def keep(self) -> None:
        """Store the finished text, if any was told; nobody has to wait for it."""
        if self._sequence:
            await self._keep(done=True)

    async def abandon(self) -> None:
        """The attempt failed: store what was told of it."""
        await self._stop()
        if self._sequence:
            await self._keep()

    def drop(self) -> None:
        """The process stops, or the call was cancelled: there is no time for anything."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()

    async def _stop(self) -> None:
        self._closing = True
        self._arrived.set()
        self._full.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_PARTING)
            self._task.cancel()

    async def _tell(self) -> None:
        while True:
            if not await self._more():
                await self._keep()  # the model pauses: who comes now must find what it has said
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.batch_seconds):
                    await self._full.wait()
            if self._closing:
                return  # the rest is the end's to tell
            self._arrived.clear()
            self._full.clear()
            if text := self._take():
                await self._publish(text)
                waited = self._monotonic() - self._kept_at
                if waited >= self._settings.snapshot_seconds or self._unkept >= self._settings.snapshot_bytes:
                    await self._keep()

    async def _more(self) -> bool:
        """Wait for text; False when a snapshot of what was told is due before any comes."""
        due = None
        if self._unkept and not self._superseded:
            due = max(0.0, self._kept_at + self._settings.snapshot_seconds - self._monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(due):
                await self._arrived.wait()
        return self._arrived.is_set()

    def _take(self, *, whole: bool = False) -> str:
        """What is pending. The first half of a character that came in two stays for the second."""
        text, self._pending = self._pending, ""
        if text and not whole and "\ud800" <= text[-1] <= "\udbff":
            text, self._pending = text[:-1], text[-1]
        return _sayable(text)

    async def _publish(self, text: str, *, done: bool = False) -> None:
        sequence, offset = self._sequence, len(self._text)
        self._sequence += 1
        self._text += text
        self._unkept += len(text.encode())
        if not self._superseded:
            await _attempt(self._telling.publish(sequence=sequence, offset=offset, text=text, done=done))

    async def _keep(self, *, done: bool = False) -> None:
        self._kept_at, self._unkept = self._monotonic(), 0
        if not self._superseded:
            kept = await _attempt(self._telling.keep(sequence=self._sequence, text=self._text, done=done))
            self._superseded = kept is False


async def _attempt(telling: Awaitable[_Told]) -> _Told | None:
    try:
        async with asyncio.timeout(_PARTING):
            return await telling
    except Exception as exc:
        # The reply itself is safe: it goes by the ledger and the commands' door.
        logger.info("text for watchers was lost", extra={"error": f"{type(exc).__name__}: {exc}"})
        return None


def _sayable(text: str) -> str:
    """`text` as events carry it: without lone surrogates."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
