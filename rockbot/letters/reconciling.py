"""Brings the index and the broker together: one walk over a queue writes the rows that are missing and removes those whose
letters are gone.

The broker is right. What a host died of writing, what another program did to a queue, what a restored state file forgot:
the next comparison mends it. Memory holds the keys of a queue's rows, never its letters.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, final

from rockbot.letters.index import LetterIndex, Scanned, lease_key
from rockbot.letters.rows import row_of
from rockbot.letters.strolling import Stroll
from rockbot.state.keys import Key
from rockbot.state.ports import Lease, StateStore, Write
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import LettersBusy
from rockbot_messaging.letters import DeadLetterQueue, Fate, Keep, Letter
from rockbot_messaging.ports import DeadLetters

__all__ = ["Comparison", "Reconciler"]

logger = logging.getLogger(__name__)

#: Letters of a scan's batch: one transaction of the store each.
_BATCH: Final = 500
_LEASE_SECONDS: Final = 60.0
#: Seconds between two looks at whether another process has finished its scan, and how many.
_POLL: Final = 0.2
_POLLS: Final = 150
#: Of a queue whose scan takes long, at most a tenth of the time goes into scans that nobody asked for.
_LONG_MS: Final = 1000
_PAUSES: Final = 10
_SMALL: Final = 1000

_KEEP: Final = Keep()


@final
class Comparison:
    """One queue against its rows. `known` are the rows as they were before the walk began: version and checksum."""

    def __init__(self, index: LetterIndex, queue: str, home_of: Callable[[Letter], str]) -> None:
        self._index = index
        self._home_of = home_of
        self._queue = queue
        self._known: dict[Key, tuple[int, int] | None] = {}
        self.seen = 0
        self.mended = 0
        self.copies = 0

    async def begin(self) -> None:
        """Read the rows there are. Those that are written from now on are left alone."""
        async for entries in self._index.pages(self._queue):
            for entry in entries:
                self._known[entry.key] = entry.version, zlib.crc32(entry.value)

    async def keep(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        """Every letter stays; its row is written if it is missing or another one."""
        writes: list[Write] = []
        for letter in letters:
            lain = self._home_of(letter) if letter.discarded else ""
            write = self._index.write_of(letter, self._queue, row_of(letter, self._queue, lain=lain))
            value = write.value or b""
            known = self._known.get(write.key, ())
            if known is None:
                self.copies += 1
            elif not known or known[1] != zlib.crc32(value):
                writes.append(write)
            self._known[write.key] = None
        self.seen += len(letters)
        self.mended += len(writes)
        await self._index.write(writes)
        return [_KEEP] * len(letters)

    async def end(self) -> None:
        """Remove the rows whose letters were not met, unless they were written anew meanwhile."""
        stale = [(at, known[0]) for at, known in self._known.items() if known is not None]
        for start in range(0, len(stale), _BATCH):
            self.mended += await self._index.remove(stale[start : start + _BATCH])


@final
class Reconciler:
    """Scans queues, one process at a time each.

    Args:
        owner: this process, in leases.
        home_of: the short name of the queue that a discarded letter lay in.
        sleep: how to wait for another process's scan.
    """

    def __init__(
        self,
        letters: DeadLetters,
        index: LetterIndex,
        store: StateStore,
        *,
        clock: Clock,
        owner: str,
        home_of: Callable[[Letter], str],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._letters = letters
        self._index = index
        self._store = store
        self._clock = clock
        self._owner = owner
        self._home_of = home_of
        self._sleep = sleep
        self._scanning: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def scan(self, queue: str, *, patient: bool = True) -> AsyncGenerator[Comparison]:
        """Compare one queue; yields after each batch, and once more at the end.

        Nothing is yielded when another process scans the queue, which is waited for if `patient`.

        Raises:
            LetterNotFound: there is no such queue. LettersBusy: somebody works it and did not end in time.
        """
        async with self._scanning[queue]:
            lease = await self._lease(queue)
            for _ in range(_POLLS if patient and lease is None else 0):
                await self._sleep(_POLL)
                if (lease := await self._lease(queue)) is not None:
                    break
            if lease is None:
                return
            try:
                async with aclosing(self._compare(queue)) as steps:
                    async for step in steps:
                        yield step
            finally:
                await self._store.release_lease(lease)

    async def mend(self, queue: str) -> None:
        """Compare one queue, wholly; a queue that somebody works is left for later."""
        try:
            async with aclosing(self.scan(queue)) as steps:
                async for _ in steps:
                    pass
        except LettersBusy as exc:
            logger.info(
                "dead letters could not be compared with their index", extra={"queue": queue, "error": str(exc)}
            )

    async def refresh(self, queue: DeadLetterQueue, indexed: int) -> bool:
        """Bring the index up to date if the broker's count says that `indexed` rows are not it; whether anything was done.

        A queue that an action works has rows that follow; one whose scan takes long is not scanned again at once.
        """
        name = queue.subscription
        before = await self._index.scanned(name)
        if not self.differs(queue, indexed, before):
            return False
        if await self._index.is_worked(name) or self._is_resting(queue, before):
            return False
        async with self._scanning[f"refresh {name}"]:
            if await self._index.scanned(name) != before:
                return True
            await self.mend(name)
        return True

    def differs(self, queue: DeadLetterQueue, indexed: int, scanned: Scanned | None) -> bool:
        """Whether the index may not be what the broker has. A depth below 0 is one that nobody knows."""
        if scanned is None:
            return bool(indexed) or queue.depth != 0
        return indexed + scanned.copies != queue.depth

    def _is_resting(self, queue: DeadLetterQueue, scanned: Scanned | None) -> bool:
        if scanned is None or scanned.took_ms < _LONG_MS or queue.depth <= _SMALL:
            return False
        return self._clock.now_ms() < scanned.at_ms + _PAUSES * scanned.took_ms

    async def _compare(self, queue: str) -> AsyncGenerator[Comparison]:
        comparison = Comparison(self._index, queue, self._home_of)
        began_ms = self._clock.now_ms()
        await comparison.begin()
        stroll = Stroll(self._letters, queue, comparison.keep, self._renew(queue), batch=_BATCH)
        async with aclosing(stroll.steps()) as steps:
            async for _ in steps:
                yield comparison
        if stroll.walked is None:
            return
        await comparison.end()
        now_ms = self._clock.now_ms()
        await self._index.note_scanned(queue, Scanned(now_ms, now_ms - began_ms, comparison.copies))
        yield comparison

    def _renew(self, queue: str) -> Callable[[Sequence[Letter], Sequence[Fate]], Awaitable[None]]:
        async def renew(_: Sequence[Letter], __: Sequence[Fate]) -> None:
            await self._lease(queue)

        return renew

    async def _lease(self, queue: str) -> Lease | None:
        return await self._store.acquire_lease(lease_key(queue), owner=self._owner, ttl=_LEASE_SECONDS)
