"""Puts exported letters back into dead-letter queues, each of them once however often the same file is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

from rockbot.letters.audit import Audit, Deed
from rockbot.letters.exporting import imported
from rockbot.letters.index import LetterIndex, row_key
from rockbot.letters.models import ExportedLetter, Progress
from rockbot.letters.naming import Queues
from rockbot.letters.tallying import Tally
from rockbot.operators.faults import InvalidRequest
from rockbot.state.keys import Key
from rockbot_messaging.errors import BodyTooLarge, LetterNotFound, Undecodable
from rockbot_messaging.letters import DeadLetterQueue, Letter
from rockbot_messaging.ports import DeadLetters

__all__ = ["Loader"]

_BATCH: Final = 100


@final
@dataclass(frozen=True, slots=True)
class _Arrival:
    """A letter on its way into a queue."""

    letter: Letter
    queue: str
    row: Key


@final
class Loader:
    """Buries letters.

    Args:
        up_to_date: brings the index of a queue up to date, so that it can tell which letters lie there already.
    """

    def __init__(
        self,
        letters: DeadLetters,
        index: LetterIndex,
        audit: Audit,
        queues: Queues,
        up_to_date: Callable[[DeadLetterQueue], Awaitable[None]],
    ) -> None:
        self._letters = letters
        self._index = index
        self._audit = audit
        self._queues = queues
        self._up_to_date = up_to_date

    async def load(
        self, lines: AsyncIterable[ExportedLetter], *, actor: str, queue: str | None
    ) -> AsyncGenerator[Progress]:
        """Put them into the queues they came from, or into `queue`; yields after each batch.

        Raises:
            LetterNotFound: there is no queue `queue`. NotConfirmed, BrokerUnreachable: what was stored stays; load again.
        """
        if queue is not None:
            queue = (await self._queues.dead(queue))[0].subscription
        run = _Loading(self, actor, queue)
        batch: list[ExportedLetter] = []
        try:
            async for line in lines:
                batch.append(line)
                if len(batch) == _BATCH:
                    await run.take(batch)
                    batch = []
                    yield run.progress()
            if batch:
                await run.take(batch)
        finally:
            await run.end()
        yield run.progress(done=True)

    async def target(self, name: str) -> str:
        """The short name of a queue, whose index is then up to date.

        Raises:
            LetterNotFound, InvalidRequest: nothing can be put there.
        """
        (queue,) = await self._queues.dead(name)
        await self._up_to_date(queue)
        return queue.subscription

    def begin(self, actor: str, queue: str) -> Deed:
        """The audit's entry for one queue."""
        return self._audit.begin("import", actor=actor, queue=queue)

    async def end(self, deed: Deed) -> None:
        """Write it down."""
        await self._audit.end(deed)

    async def lies_there(self, arrival: _Arrival) -> bool:
        """Whether the letter was put there before."""
        return await self._index.has(arrival.queue, arrival.letter.failure.at_ms, arrival.letter.id)

    async def note(self, arrived: Sequence[_Arrival], deeds: Sequence[Deed]) -> None:
        """Write rows and audit."""
        await self._index.write(
            [*(self._index.write_of(each.letter, each.queue) for each in arrived), *(deed.write() for deed in deeds)]
        )

    async def bury(self, arrival: _Arrival) -> None:
        """Store one letter."""
        letter = arrival.letter
        await self._letters.bury(arrival.queue, letter.envelope, letter.failure, problem=letter.problem)


@final
class _Loading:
    """One load, as far as it has got."""

    def __init__(self, loader: Loader, actor: str, queue: str | None) -> None:
        self._loader = loader
        self._actor = actor
        self._queue = queue
        self._tally = Tally("import")
        self._targets: dict[str, str | Exception] = {}
        self._deeds: dict[str, Deed] = {}

    def progress(self, *, done: bool = False) -> Progress:
        return self._tally.progress(self._queue or "", done=done)

    async def end(self) -> None:
        for deed in self._deeds.values():
            await self._loader.end(deed)

    async def take(self, lines: Sequence[ExportedLetter]) -> None:
        arrivals: dict[Key, _Arrival] = {}
        for line in lines:
            self._tally.seen += 1
            try:
                arrival = await self._arrival(line)
            except (Undecodable, LetterNotFound, InvalidRequest, ValueError) as exc:
                self._tally.refuse(line.id, str(exc))
                continue
            if not await self._loader.lies_there(arrival):
                arrivals[arrival.row] = arrival
        if arrivals:
            await self._loader.note((), list(self._deeds.values()))
            await self._bury(list(arrivals.values()))

    async def _bury(self, arrivals: Sequence[_Arrival]) -> None:
        problems = await asyncio.gather(*(self._loader.bury(each) for each in arrivals), return_exceptions=True)
        arrived: list[_Arrival] = []
        failure: BaseException | None = None
        for arrival, problem in zip(arrivals, problems, strict=True):
            if problem is None:
                arrived.append(arrival)
                self._tally.worked += 1
                self._deeds[arrival.queue].add(arrival.letter.id)
            elif isinstance(problem, LetterNotFound | BodyTooLarge | ValueError):
                self._tally.refuse(arrival.letter.id, str(problem))
            else:
                failure = problem
        await self._loader.note(arrived, list(self._deeds.values()))
        if failure is not None:
            raise failure

    async def _arrival(self, line: ExportedLetter) -> _Arrival:
        queue = await self._target(self._queue or line.queue)
        envelope, failure = imported(line)
        letter = Letter(id=envelope.message_id, queue=queue, envelope=envelope, failure=failure, problem=line.problem)
        return _Arrival(letter, queue, row_key(queue, failure.at_ms, letter.id))

    async def _target(self, name: str) -> str:
        if name not in self._targets:
            try:
                queue = await self._loader.target(name)
            except (LetterNotFound, InvalidRequest) as exc:
                self._targets[name] = exc
            else:
                self._targets[name] = queue
                self._deeds.setdefault(queue, self._loader.begin(self._actor, queue))
        found = self._targets[name]
        if isinstance(found, Exception):
            raise found
        return found
