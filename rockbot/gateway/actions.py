"""Long actions that outlive the request that began them by at most one batch.

A server cancels a request whose client went away, wherever it is. A batch of letters must not be cut in two, so each
action runs in a task of its own, which is asked for one result after the other and stops when nobody asks any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, final

__all__ = ["Actions"]

logger = logging.getLogger(__name__)

_END: Final = object()
#: Seconds that a batch gets when the host stops.
_PARTING: Final = 10.0


@final
class Actions:
    """The long actions of one gateway."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    async def close(self) -> None:
        """Let the batches in hand be finished, for ten seconds, and cancel what is left; bus and store are still open."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=_PARTING)
        for task in late:
            logger.warning("an action did not end in time and is cancelled; begun again it goes on with what is left")
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def follow(self, stream: AsyncIterator[Any], *, pulse: float) -> AsyncIterator[Any]:
        """What `stream` gives, each only when it is asked for, and None every `pulse` seconds in which it gave nothing.

        Closed or cancelled early, it returns at once; `stream` finishes what it is at and is closed.
        """
        wanted, given = asyncio.Semaphore(0), asyncio.Queue[object]()
        stopped = asyncio.Event()

        async def act() -> None:
            try:
                async with aclosing(stream):  # type: ignore[type-var]  # the desk's iterators are generators
                    while True:
                        await wanted.acquire()
                        if stopped.is_set():
                            return
                        given.put_nowait(await anext(stream, _END))
            except Exception as exc:
                if stopped.is_set():
                    logger.warning("an action that nobody follows any more failed: %s", exc)
                given.put_nowait(exc)

        task = asyncio.create_task(act(), name="letters")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            while True:
                wanted.release()
                while (item := await _within(pulse, given)) is None:
                    yield None
                if item is _END:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stopped.set()
            wanted.release()


async def _within(seconds: float, given: asyncio.Queue[object]) -> object:
    """The next result, None when there is none in time."""
    try:
        async with asyncio.timeout(seconds):
            return await given.get()
    except TimeoutError:
        return None
