"""Names of dead-letter queues: what people type, what the broker calls them, and the short name that the index goes by."""

from __future__ import annotations

from typing import final

from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.errors import LetterNotFound
from rockbot_messaging.letters import DISCARDED, DeadLetterQueue
from rockbot_messaging.ports import DeadLetters

__all__ = ["Queues"]


@final
class Queues:
    """Finds the queues that are meant."""

    def __init__(self, letters: DeadLetters, namespace: str) -> None:
        self._letters = letters
        self._namespace = namespace

    def short(self, name: str) -> str:
        """The short name of a queue: its subscription's, ``unrouted`` or ``discarded``."""
        return name.removeprefix(f"{self._namespace}.").removesuffix(".dlq")

    async def all(self) -> list[DeadLetterQueue]:
        """Every queue; that of discarded letters is not among them."""
        return await self._letters.queues()

    async def one(self, name: str) -> DeadLetterQueue:
        """One queue. What no listing has (discarded letters; a queue that only others know of) has the depth -1.

        Raises:
            LetterNotFound: there is no such queue.
        """
        if self.is_discarded(name):
            return DeadLetterQueue(name=f"{self._namespace}.{DISCARDED}", subscription=DISCARDED, depth=-1)
        listed = await self._letters.queues()
        for queue in listed:
            if name in (queue.name, queue.subscription) or self.short(name) == queue.subscription:
                return queue
        try:
            await self._letters.letters(name, limit=1)
        except LetterNotFound:
            known = ", ".join(queue.subscription for queue in listed)
            raise LetterNotFound(f"there is no dead-letter queue {name!r}; there are: {known}") from None
        return DeadLetterQueue(name=name, subscription=self.short(name), depth=-1)

    async def some(self, name: str | None) -> list[DeadLetterQueue]:
        """The queue of that name, every queue for None.

        Raises:
            LetterNotFound: there is no such queue.
        """
        return await self.all() if name is None else [await self.one(name)]

    async def dead(self, name: str | None) -> list[DeadLetterQueue]:
        """As `some`, for what cannot be done to discarded letters.

        Raises:
            LetterNotFound: there is no such queue. InvalidRequest: it is that of discarded letters.
        """
        if name is not None and self.is_discarded(name):
            raise InvalidRequest("these letters were discarded: restore them first, or purge them")
        return await self.some(name)

    def is_discarded(self, name: str) -> bool:
        """Whether the queue of discarded letters is meant."""
        return name in (DISCARDED, f"{self._namespace}.{DISCARDED}")
