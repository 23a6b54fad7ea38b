"""The periodic look after dead letters: compares counts, scans what differs, erases what is too old, sets the gauges."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final, final

from rockbot.letters.index import LetterIndex
from rockbot.letters.reconciling import Reconciler
from rockbot.letters.retention import Retention
from rockbot.letters.summing import Counting
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import LettersBusy
from rockbot_messaging.letters import DeadLetterQueue
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import DeadLetters

__all__ = ["LetterScanner"]

#: Equal counts may hide that one letter came and another went; so every queue is compared once a day all the same.
_DAY_MS: Final = 86_400_000


@final
class LetterScanner:
    """To be run every `LetterSettings.scan_seconds` on any number of hosts; one of them does the work."""

    def __init__(
        self,
        letters: DeadLetters,
        index: LetterIndex,
        reconciler: Reconciler,
        retention: Retention,
        *,
        clock: Clock,
        measures: Measures,
    ) -> None:
        self._letters = letters
        self._index = index
        self._reconciler = reconciler
        self._retention = retention
        self._clock = clock
        self._measures = measures

    async def run_once(self) -> None:
        """Look after every queue. A queue that somebody works is left for the next time.

        Raises:
            StateUnavailable, BrokerUnreachable: the rest is left for the next time.
        """
        for queue in await self._letters.queues():
            await self._look_after(queue)

    async def _look_after(self, queue: DeadLetterQueue) -> None:
        name = queue.subscription
        counted = await self._count(name)
        scanned = await self._index.scanned(name)
        now_ms = self._clock.now_ms()
        due = queue.depth > 0 and (scanned is None or scanned.at_ms + _DAY_MS <= now_ms)
        try:
            if (due or self._reconciler.differs(queue, counted.count, scanned)) and not await self._index.is_worked(
                name
            ):
                async with aclosing(self._reconciler.scan(name, patient=False)) as steps:
                    async for _ in steps:
                        pass
                counted = await self._count(name)
            if erased := await self._retention.expire(name):
                counted = await self._count(name)
                queue = DeadLetterQueue(name=queue.name, subscription=name, depth=max(0, queue.depth - erased))
        except LettersBusy:
            pass
        oldest = counted.oldest_ms if queue.depth else None
        age = 0.0 if oldest is None else max(0, now_ms - oldest) / 1000
        self._measures.gauge(Names.DEAD_LETTER_DEPTH, queue.depth, queue=name)
        self._measures.gauge(Names.DEAD_LETTER_AGE, age, queue=name)

    async def _count(self, queue: str) -> Counting:
        counting = Counting(self._clock.now_ms())
        async for entries in self._index.pages(queue):
            counting.take(entries)
        return counting
