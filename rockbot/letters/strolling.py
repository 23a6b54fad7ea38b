"""A walk over dead letters as something that can be iterated over, and stopped between two batches.

A provider's walk calls back; whoever watches a long action wants to pull. Here the two meet: the walk waits, with the queue
in hand, until its watcher asks for the next step, so that a watcher who leaves stops it after the batch in hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import final

from rockbot_messaging.errors import LetterNotFound
from rockbot_messaging.letters import Fate, Letter, Walked
from rockbot_messaging.ports import DeadLetters

__all__ = ["Decide", "EnoughSeen", "Settle", "Stroll"]

#: Decides on a batch; `EnoughSeen` ends the walk before it.
Decide = Callable[[Sequence[Letter]], Awaitable[Sequence[Fate]]]
#: Is told that a batch's fates were carried out.
Settle = Callable[[Sequence[Letter], Sequence[Fate]], Awaitable[None]]


class EnoughSeen(Exception):
    """What is left of the queue is not wanted."""


@final
class Stroll:
    """One walk. `walked` is what came of it, None when it did not reach the end of the queue."""

    def __init__(self, letters: DeadLetters, queue: str, decide: Decide, settle: Settle, *, batch: int) -> None:
        self._letters = letters
        self._queue = queue
        self._decide = decide
        self._settle = settle
        self._batch = batch
        self._in_hand: tuple[Sequence[Letter], Sequence[Fate]] | None = None
        self._done_batches: asyncio.Queue[None] = asyncio.Queue()
        self._go_on: asyncio.Queue[None] = asyncio.Queue()
        self._leaving = False
        self.walked: Walked | None = None

    async def steps(self) -> AsyncGenerator[None]:
        """Walk; yields after each batch that was carried out and settled. A queue that does not exist has no letters.

        Raises:
            Whatever the walk, `decide` or `settle` raise.
        """
        walk = asyncio.create_task(self._letters.walk(self._queue, self._visit, batch=self._batch))
        try:
            while await self._batch_or_end(walk):
                yield
                self._go_on.put_nowait(None)
            self.walked = _result(walk)
        finally:
            await self._leave(walk)
        if await self._settle_in_hand():
            yield

    async def _visit(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        if await self._settle_in_hand():
            self._done_batches.put_nowait(None)
            await self._go_on.get()
        if self._leaving:
            raise EnoughSeen
        fates = await self._decide(letters)
        self._in_hand = letters, fates
        return fates

    async def _settle_in_hand(self) -> bool:
        if self._in_hand is None:
            return False
        (letters, fates), self._in_hand = self._in_hand, None
        await self._settle(letters, fates)
        return True

    async def _batch_or_end(self, walk: asyncio.Task[Walked]) -> bool:
        step = asyncio.create_task(self._done_batches.get())
        try:
            await asyncio.wait((step, walk), return_when=asyncio.FIRST_COMPLETED)
            return step.done()
        finally:
            step.cancel()

    async def _leave(self, walk: asyncio.Task[Walked]) -> None:
        """Let the batch in hand be carried out, and no other begin."""
        self._leaving = True
        self._go_on.put_nowait(None)
        if walk.done():
            _ = walk.cancelled() or walk.exception()
            return
        try:
            await asyncio.wait((walk,))
        except asyncio.CancelledError:  # whoever is in such a hurry gets what the walk promises to someone killed
            walk.cancel()
            raise
        if not walk.cancelled() and walk.exception() is None:
            await self._settle_in_hand()


def _result(walk: asyncio.Task[Walked]) -> Walked | None:
    try:
        return walk.result()
    except EnoughSeen:
        return None
    except LetterNotFound:  # a queue that is known and that nobody has declared yet has no letters
        return Walked()
