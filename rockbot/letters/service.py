"""The dead-letter service as a library: everything that can be done to dead letters, over any bus and any state store.

Questions are answered from the index, work is done on the letters themselves; this module only says which part does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, final

from rockbot.events.registry import EventRegistry
from rockbot.inbox import BlockedKeys
from rockbot.letters.answering import Answers, Meant
from rockbot.letters.audit import Audit
from rockbot.letters.editing import LOCKED, SENSITIVE, changed_by, mended
from rockbot.letters.exporting import exported
from rockbot.letters.index import LetterIndex
from rockbot.letters.judging import all_of, only_first
from rockbot.letters.loading import Loader
from rockbot.letters.matching import Match
from rockbot.letters.models import (
    Action,
    AuditEntry,
    Edit,
    ExportedLetter,
    GroupInfo,
    LetterFilter,
    LetterPage,
    LetterView,
    Progress,
    QueueSummary,
    ReplayOptions,
)
from rockbot.letters.naming import Queues
from rockbot.letters.paging import Order
from rockbot.letters.reconciling import Reconciler
from rockbot.letters.replaying import Replay, ended_text
from rockbot.letters.retention import Retention
from rockbot.letters.rows import is_step, row_of
from rockbot.letters.scanning import LetterScanner
from rockbot.letters.strolling import Stroll
from rockbot.letters.tallying import Tally, Word
from rockbot.letters.turns import Turns
from rockbot.letters.working import Job, Judge, Ruling, Worker
from rockbot.operators.faults import InvalidRequest
from rockbot.operators.models import LetterDetail, PublishedMessage
from rockbot.settings_delivery import LetterSettings
from rockbot.state.ports import StateStore
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.errors import LetterNotFound, Unroutable
from rockbot_messaging.letters import DISCARDED, DeadLetterQueue, Discard, Erase, Fate, Keep, Letter, Restore, SendOn
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import DeadLetters, MessagePublisher

__all__ = ["LetterService"]

_EXPORT_BATCH: Final = 200


@final
class LetterService:
    """Implements `LetterDesk`. Opens and closes nothing; any number may work the same letters.

    Args:
        letters: of the bus.
        publisher: of the same bus, for tasks that are begun anew.
        store: the index, the audit, and the turns that letters belong to.
        owner: this process, in leases.
        namespace: first part of the queues' names.
        source: this process, on messages that it publishes.
        registry: knows what a mended body must look like; None checks nothing.
        sleep: how to wait; a test moves its clock instead.

    `scanner.run_once` is to be run every `LetterSettings.scan_seconds`.
    """

    def __init__(
        self,
        *,
        letters: DeadLetters,
        publisher: MessagePublisher,
        store: StateStore,
        clock: Clock,
        ids: IdSource,
        owner: str,
        namespace: str,
        source: str,
        registry: EventRegistry | None = None,
        measures: Measures = NO_MEASURES,
        settings: LetterSettings = LetterSettings(),  # noqa: B008 - frozen
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._letters = letters
        self._clock = clock
        self._namespace = namespace
        self._registry = registry
        self._queues = Queues(letters, namespace)
        self._index = LetterIndex(store)
        self._audit = Audit(store, clock=clock, ids=ids, measures=measures)
        self._turns = Turns(store, publisher, clock=clock, source=source)
        self._reconciler = Reconciler(
            letters, self._index, store, clock=clock, owner=owner, home_of=self._home_of, sleep=sleep
        )
        mend, gone = self._reconciler.mend, BlockedKeys(store).gone
        self._worker = Worker(letters, self._index, self._audit, clock=clock, mend=mend, sleep=sleep, gone=gone)
        self._answers = Answers(self._index, self._reconciler, self._queues, clock)
        self._loader = Loader(letters, self._index, self._audit, self._queues, self._answers.bring_up_to_date)
        retention = Retention(self._index, self._worker, self._queues, clock=clock, settings=settings)
        self.scanner = LetterScanner(letters, self._index, self._reconciler, retention, clock=clock, measures=measures)

    # -- questions ----------------------------------------------------------------------------------------------------

    async def queues(self) -> list[QueueSummary]:
        """See `LetterDesk.queues`."""
        return await self._answers.queues()

    async def groups(self, which: LetterFilter) -> list[GroupInfo]:
        """See `LetterDesk.groups`; the example is the id of the letter that died last."""
        return await self._answers.groups(which)

    async def find(
        self, which: LetterFilter, *, limit: int = 50, after: str | None = None, order: Order = "oldest"
    ) -> LetterPage:
        """See `LetterDesk.find`; `which.queue` may be ``discarded``, and a page has a thousand letters at most."""
        return await self._answers.find(which, limit=limit, after=after, order=order)

    async def letter(self, queue: str, letter_id: str) -> LetterView:
        """See `LetterDesk.letter`."""
        name = self._queues.short(queue)
        async with self._index.telling_who_works(name):
            letter = await self._letters.letter(queue, letter_id)
        row = row_of(letter, name)
        put_away = letter.discarded
        return LetterView(
            **LetterDetail.of(letter, name).model_dump(),
            group=row.get("group", ""),
            handler=letter.failure.handler,
            traceparent=letter.envelope.traceparent,
            turn=await self._turns.of(letter),
            locked=LOCKED,
            sensitive=SENSITIVE,
            discarded_ms=put_away.at_ms if put_away else None,
            discarded_reason=put_away.reason if put_away else "",
        )

    async def audit(self, *, limit: int = 100) -> list[AuditEntry]:
        """See `LetterDesk.audit`."""
        return await self._audit.entries(limit)

    # -- work ---------------------------------------------------------------------------------------------------------

    async def scan(self, queue: str | None = None) -> AsyncIterator[Progress]:
        """See `LetterDesk.scan`. `worked` counts rows written or removed."""
        queues = await self._queues.some(queue)
        tally = Tally("scan", total=sum(max(0, each.depth) for each in queues))
        for each in queues:
            seen, worked = tally.seen, tally.worked
            async with aclosing(self._reconciler.scan(each.subscription)) as steps:
                async for comparison in steps:
                    tally.seen, tally.worked = seen + comparison.seen, worked + comparison.mended
                    yield tally.progress(each.subscription)
        yield tally.progress(queues[-1].subscription if queues else "", done=True)

    async def replay(self, which: LetterFilter, options: ReplayOptions, *, actor: str) -> AsyncIterator[Progress]:
        """See `LetterDesk.replay`."""
        queues = await self._queues.dead(which.queue)
        meant = await self._answers.meant(which, queues)
        if options.new_id:
            await self._answers.refuse_new_ids(queues, meant.match)
        job = self._job(
            "replay",
            meant,
            Replay(self._turns, options, clock=self._clock).judge,
            actor=actor,
            until_ms=await self._until(queues),
            detail=_told(which, options),
            dry_run=options.dry_run,
            rate=options.rate,
        )
        async with aclosing(self._run("replay", queues, job)) as steps:
            async for step in steps:
                yield step

    async def edit(self, queue: str, letter_id: str, edit: Edit, *, actor: str) -> PublishedMessage:
        """See `LetterDesk.edit`. A step whose turn has ended is not sent on (`InvalidRequest`)."""
        (where,) = await self._queues.dead(queue)
        async with self._index.telling_who_works(where.subscription):
            letter = await self._letters.letter(queue, letter_id)
        message = mended(letter, edit, now_ms=self._clock.now_ms(), namespace=self._namespace, registry=self._registry)
        turn = await self._turns.of(letter)
        if turn is not None and turn.ended and is_step(letter):
            raise InvalidRequest(ended_text(turn))
        fate = SendOn(message, keep_original=f"edited and sent on by {actor}")
        at_ms = letter.failure.at_ms
        meant = Meant(Match(LetterFilter(ids=(letter.id,), since_ms=at_ms, before_ms=at_ms + 1), whole=True), enough=1)
        job = self._job("edit", meant, only_first(fate), actor=actor, detail=f"changed {', '.join(changed_by(edit))}")
        tally = Tally("replay")
        async with aclosing(self._worker.work(where.subscription, job, tally)) as steps:
            async for _ in steps:
                pass
        if tally.refusals:
            raise Unroutable(message.topic, f"the letter stays where it is: {tally.first_refusal}")
        if not tally.worked:
            raise LetterNotFound(f"letter {letter.id!r} was worked by somebody else meanwhile")
        return PublishedMessage.of(message)

    async def discard(
        self, which: LetterFilter, *, reason: str, actor: str, dry_run: bool = False
    ) -> AsyncIterator[Progress]:
        """See `LetterDesk.discard`."""
        queues = await self._queues.dead(which.queue)
        meant = await self._answers.meant(which, queues)
        judge = all_of(Discard(reason))
        job = self._job(
            "discard",
            meant,
            judge,
            actor=actor,
            until_ms=await self._until(queues),
            reason=reason,
            detail=_told(which),
            dry_run=dry_run,
        )
        async with aclosing(self._run("discard", queues, job)) as steps:
            async for step in steps:
                yield step

    async def restore(self, which: LetterFilter, *, actor: str) -> AsyncIterator[Progress]:
        """See `LetterDesk.restore`."""
        lain = None if which.queue is None else (await self._queues.dead(which.queue))[0].subscription
        discarded = await self._queues.one(DISCARDED)

        async def judge(letters: Sequence[Letter]) -> Sequence[Ruling]:
            return [Ruling(Restore() if lain in (None, self._home_of(each)) else Keep()) for each in letters]

        meant = await self._answers.meant(which, [discarded])
        job = self._job("restore", meant, judge, actor=actor, detail=_told(which))
        async with aclosing(self._run("restore", [discarded], job)) as steps:
            async for step in steps:
                yield step

    async def purge(self, queue: str, *, expect: int, actor: str, reason: str) -> AsyncIterator[Progress]:
        """See `LetterDesk.purge`. Letters that come while it erases are not erased."""
        where = await self._queues.one(queue)
        depth = where.depth if where.depth >= 0 else await self._count(where)
        if depth > expect:
            raise InvalidRequest(
                f"{where.name} has {depth} letters, and {expect} were expected: look at what came, then purge again"
            )
        left = expect

        async def judge(letters: Sequence[Letter]) -> Sequence[Ruling]:
            nonlocal left
            erased = min(left, len(letters))
            left -= erased
            return [Ruling(Erase())] * erased + [Ruling(Keep())] * (len(letters) - erased)

        job = self._job("purge", Meant(Match(LetterFilter())), judge, actor=actor, reason=reason)
        async with aclosing(self._run("purge", [where], job)) as steps:
            async for step in steps:
                yield step

    async def export(self, which: LetterFilter) -> AsyncIterator[ExportedLetter]:
        """See `LetterDesk.export`; `which.queue` may be ``discarded``."""
        match = Match(which)
        for queue in await self._queues.some(which.queue):
            found: list[ExportedLetter] = []

            async def keep(letters: Sequence[Letter], found: list[ExportedLetter] = found) -> Sequence[Fate]:
                for letter in letters:
                    name = self._home_of(letter)
                    if match.fits(row_of(letter, name)):
                        found.append(exported(letter, name))
                return [Keep()] * len(letters)

            stroll = Stroll(self._letters, queue.subscription, keep, _nothing, batch=_EXPORT_BATCH)
            async with aclosing(stroll.steps()) as steps:
                async for _ in steps:
                    for line in found:
                        yield line
                    found.clear()

    async def load(
        self, letters: AsyncIterable[ExportedLetter], *, actor: str, queue: str | None = None
    ) -> AsyncIterator[Progress]:
        """See `LetterDesk.load`. A letter that lies in its queue already is not put there again."""
        async with aclosing(self._loader.load(letters, actor=actor, queue=queue)) as steps:
            async for step in steps:
                yield step

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _job(
        self,
        action: Action,
        meant: Meant,
        judge: Judge,
        *,
        actor: str,
        until_ms: int | None = None,
        reason: str = "",
        detail: str = "",
        dry_run: bool = False,
        rate: float | None = None,
    ) -> Job:
        return Job(
            action=action,
            actor=actor,
            match=meant.match,
            judge=judge,
            queue_of=self._home_of,
            until_ms=until_ms,
            reason=reason,
            detail=detail,
            dry_run=dry_run,
            rate=rate,
            enough=meant.enough,
        )

    async def _run(self, word: Word, queues: Sequence[DeadLetterQueue], job: Job) -> AsyncGenerator[Progress]:
        tally = Tally(word, total=await self._answers.expected(queues, job.match), dry_run=job.dry_run)
        for queue in queues:
            async with aclosing(self._worker.work(queue.subscription, job, tally)) as steps:
                async for _ in steps:
                    yield tally.progress(queue.subscription)
        yield tally.progress(queues[-1].subscription if queues else "", done=True)

    async def _until(self, queues: Sequence[DeadLetterQueue]) -> int:
        """The end of what an action is for: what dies later is left for the next one."""
        now_ms = self._clock.now_ms()
        return max([await self._index.latest(queue.subscription, now_ms) for queue in queues], default=now_ms)

    async def _count(self, queue: DeadLetterQueue) -> int:
        async with aclosing(self._reconciler.scan(queue.subscription)) as steps:
            return max([step.seen async for step in steps], default=0)

    def _home_of(self, letter: Letter) -> str:
        """The short name of the dead-letter queue that a letter lies in, or lay in before it was discarded."""
        return self._queues.short(letter.discarded.queue if letter.discarded else letter.queue)


async def _nothing(letters: Sequence[Letter], fates: Sequence[Fate]) -> None:
    pass


def _told(*asked: LetterFilter | ReplayOptions) -> str:
    """What was asked for, for the audit; the queue is named there already."""
    given = [each.model_dump_json(exclude_defaults=True, exclude={"queue"}) for each in asked]
    return " ".join(text for text in given if text != "{}")
