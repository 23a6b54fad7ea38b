"""Writes the row of a letter as it dies, so that the index is up to date without anybody reading the queue.

The bus tells of a burial after it is done, and must not be kept waiting: rows are made at once and written by a task, some
together. A store that is away for long costs rows, never deliveries; the queues they belong to are then compared anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, final

from rockbot.letters.index import LetterIndex
from rockbot.state.ports import StateError, StateStore, Write
from rockbot_messaging.letters import Letter
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.settlement import Bury, Delay

__all__ = ["LetterRecorder"]

logger = logging.getLogger(__name__)

_BATCH: Final = 200
_BUFFER: Final = 10_000
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Seconds that `close` gives the store to take what is left.
_PARTING: Final = 5.0


@final
class LetterRecorder:
    """Implements `rockbot_messaging.ports.BusObserver`.

    Args:
        buffer: rows that wait for the store at most.
        sleep: how to wait before a store that failed is tried again.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        measures: Measures = NO_MEASURES,
        buffer: int = _BUFFER,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._index = LetterIndex(store)
        self._measures = measures
        self._buffer = buffer
        self._sleep = sleep
        self._rows: deque[tuple[str, Write]] = deque()
        self._missed: set[str] = set()
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write; needs a running event loop and an open store. What was told before is kept until then."""
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="dead-letter index")

    async def close(self) -> None:
        """Write what is left, for five seconds at most, and end; idempotent."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            async with asyncio.timeout(_PARTING):
                await self._idle.wait()
        except TimeoutError:
            logger.info(
                "rows of dead letters were not written; the next scan finds the letters",
                extra={"count": len(self._rows)},
            )
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    async def flushed(self) -> None:
        """Return once everything told so far is written, or given up."""
        await self._idle.wait()

    def carried_out(self, subscription: str, outcome: Delay | Bury) -> None:
        """See `BusObserver.carried_out`."""
        if not isinstance(outcome, Bury):
            return
        try:
            failure = outcome.failure
            self._measures.count(Names.DEAD_LETTERS, subscription=subscription, error=failure.error_type or "none")
            self._take(
                subscription,
                Letter(id=outcome.envelope.message_id, queue=subscription, envelope=outcome.envelope, failure=failure),
            )
        except Exception:  # whoever tells us must not fail by it
            self._missed.add(subscription)
            self._wake()
            logger.exception("the row of a dead letter could not be made; the next scan finds the letter")

    def _take(self, queue: str, letter: Letter) -> None:
        if len(self._rows) >= self._buffer:
            self._missed.add(queue)
        else:
            self._rows.append((queue, self._index.write_of(letter, queue)))
        self._wake()

    def _wake(self) -> None:
        self._wanted.set()
        self._idle.clear()

    async def _write(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._wanted.wait()
            batch = [self._rows[at] for at in range(min(_BATCH, len(self._rows)))]
            missed = set(self._missed)
            try:
                await self._index.write(write for _, write in batch)
                for queue in missed:
                    await self._index.scan_needed(queue)
            except StateError as exc:
                logger.warning(
                    "the index of dead letters cannot be written; it is tried again",
                    extra={"error": f"{type(exc).__name__}: {exc}", "waiting": len(self._rows)},
                )
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except Exception:  # of our own making: trying it again would not help, and the next scan does
                logger.exception("rows of dead letters could not be written; the next scan finds the letters")
            pause = _FIRST_PAUSE
            for _ in batch:
                self._rows.popleft()
            self._missed -= missed
            if not self._rows and not self._missed:
                self._wanted.clear()
                self._idle.set()
