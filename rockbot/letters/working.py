"""Bulk actions: one walk over a queue, in which each letter that fits is judged, and its row and the audit follow.

Whoever is killed in between leaves every letter where it was or where it was to go, and nothing here remembers a position:
the same action begun again goes on with what is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, final

from rockbot.letters.audit import Audit, Deed
from rockbot.letters.index import LetterIndex, row_key
from rockbot.letters.matching import Match
from rockbot.letters.models import Action
from rockbot.letters.rows import row_of
from rockbot.letters.strolling import EnoughSeen, Stroll
from rockbot.letters.tallying import Pace, Tally
from rockbot.state.keys import Key
from rockbot.state.ports import StateError, Write
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import LettersBusy
from rockbot_messaging.letters import Discard, Erase, Fate, Keep, Letter, Restore, SendOn
from rockbot_messaging.ports import DeadLetters

__all__ = ["Job", "Judge", "Ruling", "Worker"]

_BATCH: Final = 200
#: Seconds that a rate-limited action keeps a queue's letters from others, before it lets go of them to wait.
_HOLD: Final = 10.0
#: Seconds after which an action says again that it is at work.
_SAY_AGAIN: Final = 15.0

_KEEP: Final = Keep()


@final
@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a letter that fits. `refusal` says why it stays; `action` is what the audit calls it, None: the
    job's word; `ended_turn` counts it as one whose turn has ended."""

    fate: Fate
    refusal: str = ""
    action: Action | None = None
    ended_turn: bool = False


Judge = Callable[[Sequence[Letter]], Awaitable[Sequence[Ruling]]]
Gone = Callable[[str, Collection[tuple[str, str]]], Awaitable[object]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One action.

    Args:
        queue_of: the short name under which a letter's row lies; for discarded ones the queue that they lay in.
        until_ms: letters that died later are left alone.
        enough: end the walk when so many letters were judged; None for the end of the queue.
        early: end the walk at the first batch in which none fits.
    """

    action: Action
    actor: str
    match: Match
    judge: Judge
    queue_of: Callable[[Letter], str]
    until_ms: int | None = None
    reason: str = ""
    detail: str = ""
    dry_run: bool = False
    rate: float | None = None
    enough: int | None = None
    early: bool = False


@final
class Worker:
    """Carries out jobs.

    Args:
        mend: compares a queue with its rows.
        sleep: how a rate-limited job waits.
        gone: told of letters (tenant, id) of a queue that will not come back under their ids, as far as others wait for them.
    """

    def __init__(
        self,
        letters: DeadLetters,
        index: LetterIndex,
        audit: Audit,
        *,
        clock: Clock,
        mend: Callable[[str], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
        gone: Gone,
    ) -> None:
        self._letters = letters
        self._index = index
        self._audit = audit
        self._clock = clock
        self._mend = mend
        self._sleep = sleep
        self._gone = gone

    async def work(self, queue: str, job: Job, tally: Tally) -> AsyncGenerator[None]:
        """Do the job on one queue; yields after each batch.

        Raises:
            LetterNotFound: there is no such queue. BrokerUnreachable: what was carried out stays carried out.
        """
        run = _Run(queue, job, tally, self._index, self._audit, self._clock, self._sleep, self._gone)
        try:
            while True:
                stroll = Stroll(self._letters, queue, run.decide, run.settle, batch=run.batch)
                async with self._index.telling_who_works(queue), aclosing(stroll.steps()) as steps:
                    async for _ in steps:
                        yield
                if stroll.walked is not None and stroll.walked.refusals:
                    run.stayed(stroll.walked.refused, stroll.walked.refusals)
                if not await run.rested():
                    break
        except LettersBusy:
            raise  # nothing is in hand
        except Exception:
            # What became of the batch in hand is not known.
            with contextlib.suppress(StateError):
                await self._index.scan_needed(queue)
            raise
        finally:
            await run.end()
        if run.has_stayed:
            await self._mend(queue)


@final
class _Run:
    """One job on one queue, as far as it has got."""

    def __init__(
        self,
        queue: str,
        job: Job,
        tally: Tally,
        index: LetterIndex,
        audit: Audit,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        gone: Gone,
    ) -> None:
        self._gone = gone
        self._queue = queue
        self._job = job
        self._tally = tally
        self._index = index
        self._audit = audit
        self._clock = clock
        self._sleep = sleep
        self._pace = Pace(job.rate, clock)
        self._deeds: dict[Action, Deed] = {}
        self._judged = 0
        self._said: int | None = None
        self._said_at: float | None = None
        self._held_since: float | None = None
        self._resting = False
        #: Letters of walks that were let go of: those in `_tried` are still there because they could not be worked.
        self._passed: set[Key] = set()
        self._passing: set[Key] = set()
        self._tried: set[Key] = set()
        self.has_stayed = False
        self.batch = _BATCH if job.rate is None else max(1, min(_BATCH, int(job.rate)))

    async def decide(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        job = self._job
        if job.enough is not None and self._judged >= job.enough:
            raise EnoughSeen
        fresh = self._first_seen(letters)
        chosen = [letter for letter in fresh if self._fits(letter)]
        if not chosen and job.early:
            raise EnoughSeen
        await self._say()
        if chosen:
            await self._wait()
        self._tally.seen += len(fresh)
        self._passing.update(self._key(letter) for letter in fresh) if job.rate is not None else None
        rulings = await job.judge(chosen) if chosen else ()
        self._judged += len(chosen)
        fates: dict[int, Fate] = {}
        for letter, ruling in zip(chosen, rulings, strict=True):
            self._count(letter, ruling)
            if not job.dry_run and not isinstance(ruling.fate, Keep):
                fates[id(letter)] = ruling.fate
        if fates:
            self._pace.spend(len(fates))
            await self._index.write([deed.write() for deed in self._deeds.values()])
        return [fates.get(id(letter), _KEEP) for letter in letters]

    async def settle(self, letters: Sequence[Letter], fates: Sequence[Fate]) -> None:
        writes: list[Write] = []
        for letter, fate in zip(letters, fates, strict=True):
            if isinstance(fate, Keep):
                continue
            writes.append(self._index.removal_of(letter, self._queue))
            if isinstance(fate, Restore):
                writes.append(self._index.write_of(letter, self._job.queue_of(letter)))
            if self._job.rate is not None:
                self._tried.add(self._key(letter))
        await self._index.write(writes)
        if gone := {
            (letter.envelope.tenant, letter.id)
            for letter, fate in zip(letters, fates, strict=True)
            if _never_comes_back(letter, fate)
        }:
            await self._gone(self._queue, gone)

    def stayed(self, refused: Sequence[tuple[str, str]], refusals: int) -> None:
        """The walk could not carry out so many fates."""
        self.has_stayed = True
        self._tally.refuse_after_all(refused, refusals)
        # Which action they were part of is only known of those that are named, and a job has one that can be refused.
        deed = self._deeds.get(self._job.action) or next(iter(self._deeds.values()))
        deed.take_back({letter_id for letter_id, _ in refused}, refusals)

    async def rested(self) -> bool:
        """Whether the job goes on with another walk, after the pause that its rate asks for."""
        if not self._resting:
            return False
        self._resting = False
        self._held_since = None
        self._passed |= self._passing
        self._passing.clear()
        while wait := self._pace.wait:
            await self._say()
            await self._sleep(min(wait, _SAY_AGAIN))
        return True

    async def end(self) -> None:
        """Write down what was done."""
        if self._said is not None:
            await self._index.done(self._queue, self._said)
        for deed in self._deeds.values():
            await self._audit.end(deed)

    def _key(self, letter: Letter) -> Key:
        return row_key(self._queue, letter.failure.at_ms, letter.id)

    def _first_seen(self, letters: Sequence[Letter]) -> Sequence[Letter]:
        if not self._passed:
            return letters
        fresh = []
        for letter in letters:
            at = self._key(letter)
            if at not in self._passed:
                fresh.append(letter)
            elif at in self._tried:
                self._tried.discard(at)
                self.stayed(((letter.id, "it could not be sent on; the log says why"),), 1)
        return fresh

    def _fits(self, letter: Letter) -> bool:
        job = self._job
        if job.until_ms is not None and letter.failure.at_ms > job.until_ms:
            return False
        return job.match.everything_ever or job.match.fits(row_of(letter, job.queue_of(letter)))

    def _count(self, letter: Letter, ruling: Ruling) -> None:
        if ruling.ended_turn:
            self._tally.ended_turns += 1
        if ruling.refusal:
            self._tally.refuse(letter.id, ruling.refusal)
        if isinstance(ruling.fate, Keep):
            return
        self._tally.worked += 1
        if self._job.dry_run:
            return
        action = ruling.action or self._job.action
        if action not in self._deeds:
            job = self._job
            self._deeds[action] = self._audit.begin(
                action, actor=job.actor, queue=self._queue, reason=job.reason, detail=job.detail
            )
        self._deeds[action].add(letter.id)

    async def _say(self) -> None:
        now = self._clock.monotonic()
        if self._said_at is None or now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            self._said = await self._index.working(
                self._queue, f"{self._job.action} by {self._job.actor or 'somebody'}"
            )

    async def _wait(self) -> None:
        """Wait for the next letter's time: with the queue in hand if that is short, else by letting go of it."""
        now = self._clock.monotonic()
        if self._held_since is None:
            self._held_since = now
        while wait := self._pace.wait:
            if self._clock.monotonic() - self._held_since + wait > _HOLD:
                self._resting = True
                raise EnoughSeen
            await self._sleep(wait)


def _never_comes_back(letter: Letter, fate: Fate) -> bool:
    if isinstance(fate, SendOn):
        return fate.envelope.message_id != letter.id
    return isinstance(fate, Discard | Erase)
