"""Questions about dead letters, answered from the index: the rows of a queue are gone over once, and once more if the
broker's count says that they were not up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

from rockbot.letters.index import LetterIndex
from rockbot.letters.matching import Match
from rockbot.letters.models import GroupInfo, LetterFilter, LetterPage, QueueSummary
from rockbot.letters.naming import Queues
from rockbot.letters.paging import LARGEST_PAGE, Order, Selection, page_of, place_of
from rockbot.letters.reconciling import Reconciler
from rockbot.letters.summing import Counting, Grouping, Naming, Steps
from rockbot.operators.faults import InvalidRequest
from rockbot.state.ports import Entry
from rockbot_messaging.clock import Clock
from rockbot_messaging.letters import DeadLetterQueue

__all__ = ["Answers", "Meant"]


class _Collector(Protocol):
    def take(self, entries: Sequence[Entry]) -> None: ...


C = TypeVar("C", bound=_Collector)


@final
@dataclass(frozen=True, slots=True)
class Meant:
    """What an action is for, and how many letters are enough (None: all there are)."""

    match: Match
    enough: int | None = None


@final
class Answers:
    """Goes over rows."""

    def __init__(self, index: LetterIndex, reconciler: Reconciler, queues: Queues, clock: Clock) -> None:
        self._index = index
        self._reconciler = reconciler
        self._queues = queues
        self._clock = clock

    async def queues(self) -> list[QueueSummary]:
        """Every dead-letter queue."""
        summaries = []
        for queue in await self._queues.all():
            counting = await self._collect(queue, lambda: Counting(self._clock.now_ms()))
            scanned = await self._index.scanned(queue.subscription)
            summaries.append(
                QueueSummary(
                    name=queue.name,
                    subscription=queue.subscription,
                    depth=queue.depth,
                    oldest_ms=counting.oldest_ms,
                    newest_ms=counting.newest_ms,
                    per_hour=counting.per_hour,
                    indexed=counting.count,
                    scanned_ms=scanned.at_ms if scanned else None,
                )
            )
        return summaries

    async def groups(self, which: LetterFilter) -> list[GroupInfo]:
        """Letters by what they died of."""
        match = Match(which)
        found: list[GroupInfo] = []
        for queue in await self._queues.some(which.queue):

            def make(name: str = queue.subscription) -> Grouping:
                return Grouping(name, match)

            found += (await self._collect(queue, make)).groups()
        return sorted(found, key=lambda group: (-group.count, group.queue, group.id))

    async def find(self, which: LetterFilter, *, limit: int, after: str | None, order: Order) -> LetterPage:
        """A page of letters."""
        match = Match(which)
        if not 1 <= limit <= LARGEST_PAGE:
            raise InvalidRequest(f"a page has 1 to {LARGEST_PAGE} letters, not {limit}")
        place = None if after is None else place_of(after, order)
        selections = []
        for queue in await self._queues.some(which.queue):

            def make(name: str = queue.subscription) -> Selection:
                return Selection(name, match, limit=limit, order=order, after=place)

            selections.append(await self._collect(queue, make))
        return page_of(selections, limit=limit, order=order)

    # -- what actions ask

    async def meant(self, which: LetterFilter, queues: Sequence[DeadLetterQueue]) -> Meant:
        """The letters that an action is for. A beginning of an id must mean one letter; an id that no letter has is for
        nothing: its letter was worked before.

        Raises:
            LetterNotFound: a beginning means several letters. InvalidRequest: the filter makes no sense.
        """
        if not which.ids:
            return Meant(Match(which))
        naming = Naming(which.ids)
        for queue in queues:
            naming.join(await self._collect(queue, lambda: Naming(which.ids)))
        return Meant(Match(which.model_copy(update={"ids": naming.whole_ids()}), whole=True))

    async def expected(self, queues: Sequence[DeadLetterQueue], match: Match) -> int:
        """How many letters an action will work, as far as the index knows without a scan."""
        if match.everything_ever:
            return sum(max(0, queue.depth) for queue in queues)
        total = 0
        for queue in queues:
            selection = Selection(queue.subscription, match, limit=1, order="oldest", after=None)
            async for entries in self._index.pages(queue.subscription):
                selection.take(entries)
            total += selection.total
        return total

    async def refuse_new_ids(self, queues: Sequence[DeadLetterQueue], match: Match) -> None:
        """Raises InvalidRequest: a step of a turn is among the letters, and it would lose its way with another id."""
        for queue in queues:
            steps = await self._collect(queue, lambda: Steps(match))
            if steps.first:
                raise InvalidRequest(
                    f"letter {steps.first} in {queue.subscription} is a step of a turn, which waits for the answer under "
                    f"this very id (and so are {steps.count - 1} more): replay without new_id"
                )

    async def bring_up_to_date(self, queue: DeadLetterQueue) -> None:
        """Have the index know what lies in a queue."""
        await self._collect(queue, lambda: Counting(self._clock.now_ms()))

    async def _collect(self, queue: DeadLetterQueue, make: Callable[[], C]) -> C:
        collector, count = make(), 0
        async for entries in self._index.pages(queue.subscription):
            count += len(entries)
            collector.take(entries)
        if not await self._reconciler.refresh(queue, count):
            return collector
        collector = make()
        async for entries in self._index.pages(queue.subscription):
            collector.take(entries)
        return collector
