"""How long dead letters are kept: for ever, unless the settings name a number of days."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, final

from rockbot.letters.index import LetterIndex
from rockbot.letters.matching import Match
from rockbot.letters.models import LetterFilter
from rockbot.letters.naming import Queues
from rockbot.letters.tallying import Tally
from rockbot.letters.working import Job, Ruling, Worker
from rockbot.settings_delivery import LetterSettings
from rockbot_messaging.clock import Clock
from rockbot_messaging.letters import Erase, Letter

__all__ = ["Retention"]

_DAY_MS: Final = 86_400_000


@final
class Retention:
    """Erases letters that are older than their queue keeps them."""

    def __init__(
        self, index: LetterIndex, worker: Worker, queues: Queues, *, clock: Clock, settings: LetterSettings
    ) -> None:
        self._index = index
        self._worker = worker
        self._clock = clock
        self._days = settings.keep_days
        self._days_of = {queues.short(name): days for name, days in settings.keep_days_by_queue.items()}

    async def expire(self, queue: str) -> int:
        """Erase what is too old in a queue (its short name); how many letters that were.

        The queue is only walked when its index knows of such a letter, and only as far as they lie at its head.
        """
        days = self._days_of.get(queue, self._days)
        before_ms = self._clock.now_ms() - round(days * _DAY_MS)
        if not days or before_ms <= 0:
            return 0
        oldest = await self._index.oldest(queue)
        if oldest is None or oldest >= before_ms:
            return 0

        async def erase(letters: Sequence[Letter]) -> Sequence[Ruling]:
            return [Ruling(Erase())] * len(letters)

        job = Job(
            action="expire",
            actor="retention",
            match=Match(LetterFilter(before_ms=before_ms)),
            judge=erase,
            queue_of=lambda _: queue,
            reason=f"older than {days:g} days",
            early=True,
        )
        tally = Tally("expire")
        async with aclosing(self._worker.work(queue, job, tally)) as steps:
            async for _ in steps:
                pass
        return tally.worked
