"""Reading and working the dead-letter queues of the broker inside the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import LetterNotFound, Unroutable
from rockbot_messaging.letters import UNROUTED, DeadLetterQueue, Failure, Letter
from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.outgoing import check_size
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.settlement import sent_on

__all__ = ["MemoryDeadLetters"]

_LOG: Final = logging.getLogger("rockbot_messaging.memory")

#: Characters of an id that a person has to type at least.
_SHORTEST_PREFIX: Final = 6


@final
class MemoryDeadLetters:
    """Implements `DeadLetters`.

    Args:
        broker: what holds the letters.
        check_open: raises what its bus raises when it is not open.
        max_body_bytes: limit of a mended body.
    """

    def __init__(self, broker: MemoryBroker, check_open: Callable[[], None], max_body_bytes: int) -> None:
        self._broker = broker
        self._check_open = check_open
        self._max_body_bytes = max_body_bytes
        self._working = asyncio.Lock()

    async def queues(self) -> list[DeadLetterQueue]:
        """Those of every work queue that was declared or has messages; the unrouted queue last."""
        self._check_open()
        prefix = f"{self._broker.namespace}."
        listed = [
            DeadLetterQueue(name=_name(queue), subscription=queue.name.removeprefix(prefix), depth=len(queue.dead))
            for queue in self._broker.queues.values()
            if not queue.watch
        ]
        unrouted = self._broker.unrouted
        return [*listed, DeadLetterQueue(name=unrouted.name, subscription=UNROUTED, depth=len(unrouted.dead))]

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        """See `DeadLetters.letters`."""
        grave = self._grave(queue)
        return [self._letter(grave, stored) for stored in islice(grave.dead.values(), offset, offset + limit)]

    async def letter(self, queue: str, letter_id: str) -> Letter:
        """See `DeadLetters.letter`; of several copies of one message the oldest is meant."""
        grave = self._grave(queue)
        return self._letter(grave, self._find(grave, letter_id))

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        """See `DeadLetters.replay`; raises `BodyTooLarge` for a mended body over the limit."""
        async with self._working:
            grave = self._grave(queue)
            letter = self._find(grave, letter_id)
            again = sent_on(self._letter(grave, letter), now_ms=self._broker.clock.now_ms(), body=body)
            if body is not None:
                check_size(again, self._max_body_bytes)
            queues = self._broker.route(again.topic) if grave is self._broker.unrouted else (grave,)
            if not queues:
                raise Unroutable(again.topic, f"still nobody receives topic {again.topic!r}; the letter stays")
            await self._broker.replay(grave, letter, again, queues)
        _LOG.info("letter %s of %s was sent on", again.message_id, _name(grave))
        return again

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        """See `DeadLetters.discard`."""
        async with self._working:
            grave = self._grave(queue)
            stored = self._find(grave, letter_id)
            letter = self._letter(grave, stored)
            await self._broker.remove_letter(grave, stored)
        _LOG.warning("letter %s of %s was discarded: %s", letter.id, letter.queue, reason)
        return letter

    def _grave(self, name: str) -> MemoryQueue:
        self._check_open()
        unrouted = self._broker.unrouted
        if name in (UNROUTED, unrouted.name):
            return unrouted
        plain = name.removesuffix(".dlq")
        for candidate in (plain, f"{self._broker.namespace}.{plain}"):
            queue = self._broker.queues.get(candidate)
            if queue is not None and not queue.watch:
                return queue
        raise LetterNotFound(f"there is no dead-letter queue {name!r}")

    def _find(self, grave: MemoryQueue, letter_id: str) -> Stored:
        begun: dict[str, Stored] = {}
        for stored in grave.dead.values():
            its_id = stored.envelope.message_id
            if its_id == letter_id:
                return stored
            if its_id.startswith(letter_id):
                begun.setdefault(its_id, stored)
        if len(letter_id) < _SHORTEST_PREFIX:
            raise LetterNotFound(
                f"{letter_id!r} is too short for the beginning of an id: give {_SHORTEST_PREFIX} characters or more"
            )
        if not begun:
            raise LetterNotFound(f"no letter {letter_id!r} lies in {_name(grave)}")
        if len(begun) > 1:
            raise LetterNotFound(f"{letter_id!r} may mean {', '.join(list(begun)[:5])}: give more of the id")
        return next(iter(begun.values()))

    def _letter(self, grave: MemoryQueue, stored: Stored) -> Letter:
        envelope = stored.envelope
        failure = stored.failure or Failure(reason="", queue=grave.name, topic=envelope.topic, at_ms=0)
        return Letter(
            id=envelope.message_id, queue=_name(grave), envelope=envelope, failure=failure, problem=stored.problem
        )


def _name(queue: MemoryQueue) -> str:
    return queue.name if queue.name.endswith(f".{UNROUTED}") else f"{queue.name}.dlq"
