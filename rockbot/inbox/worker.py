"""One ordered subscription in one process: what arrives is appended, and the lines with something to do are worked.

Lines are worked in parallel, each strictly one message after another, under a lease that is prolonged while a handler runs.
An arrival wakes its line at once; lines of processes that died, and retries that fell due, are found by the scan.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, final

from rockbot.inbox.line import LineId, order_key
from rockbot.inbox.shelf import UNREADABLE, Arrival, Grant, Lost, Shelf, Unreadable
from rockbot.inbox.writing import PAUSE, Persistence
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import MessagingError
from rockbot_messaging.letters import Failure
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.settlement import Bury, Delay, Forget, Outcome, decide
from rockbot_messaging.subscriptions import Ordered, WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict, failed_attempt

__all__ = ["Inbox", "Terms"]

logger = logging.getLogger(__name__)

#: Messages of one line that are handled before another line gets its turn.
_TURN: Final = 16
#: How many processes may vanish while they handle one message before it is a dead letter.
_MOST_DEATHS: Final = 20
#: A scan is followed by so many times as long without one.
_SCAN_SHARE: Final = 10
#: Seconds that cancelled handlers get to end.
_GRACE: Final = 5.0
#: Seconds for which a handled id is remembered when the subscription does not say.
_REMEMBER: Final = 86_400.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for every line: `bury` stores a letter (queue, message, failure), `most` may wait in a line, `lease` is
    how many seconds a grant lasts, `scan` how many lie between two looks at all lines."""

    namespace: str
    bury: Callable[[str, MessageEnvelope, Failure], Awaitable[None]]
    clock: Clock
    measures: Measures
    lease: float
    scan: float
    most: int


@final
class Inbox:
    """The lines of one subscription."""

    def __init__(
        self, subscription: WorkSubscription, ordered: Ordered, handle: MessageHandler, shelf: Shelf, terms: Terms
    ) -> None:
        self.subscription = subscription
        self._ordered = ordered
        self._handle = handle
        self._shelf = shelf
        self._terms = terms
        self._persistence = Persistence(shelf, lease=terms.lease, subscription=subscription.name)
        self._queue = f"{terms.namespace}.{subscription.name}"
        #: Messages without a key are handled in the hand of the reader, beside lines; both share what may run at once.
        self._slots = asyncio.Semaphore(subscription.parallelism)
        self._turns: dict[LineId, tuple[asyncio.Lock, int]] = {}
        self._ready: deque[LineId] = deque()
        self._wanted: set[LineId] = set()
        self._tasks: dict[LineId, asyncio.Task[None]] = {}
        self._alarms: dict[LineId, asyncio.TimerHandle] = {}
        self._scan_again_at = 0.0
        self._closing = False

    @property
    def lease(self) -> float:
        """Seconds that a grant lasts."""
        return self._terms.lease

    @property
    def scan_every(self) -> float:
        """Seconds between two scans."""
        return self._terms.scan

    # -- the way in

    async def receive(self, envelope: MessageEnvelope) -> Verdict:
        """Append and acknowledge. A message without a key is handled at once."""
        name = order_key(envelope, self._ordered)
        if name is None:
            return await self._in_slot(envelope)
        line = LineId(self.subscription.name, envelope.tenant, name)
        # Whoever was delivered first is appended first. A store that is away is waited for with the delivery in hand:
        # handing it back would let later messages of its key go first.
        try:
            async with self._turn(line):
                arrival = await self._persistence.stored(
                    lambda: self._shelf.arrive(line, envelope, most=self._terms.most)
                )
        except StateUnavailable:
            # The host closes. Any verdict would put it behind later ones of its key; its consumption, which is being
            # stopped, cancels this and gives everything back in its order.
            await asyncio.get_running_loop().create_future()
            raise
        if arrival is Arrival.FULL:
            return Retry(
                counted=False,
                reason=f"{self._terms.most} messages of the key {name!r} wait already",
                error_type="InboxFull",
            )
        if arrival is Arrival.COPY:
            self._terms.measures.count(Names.DUPLICATES, subscription=self.subscription.name)
            logger.debug(
                "a copy of a message of an inbox was acknowledged",
                extra={"message_id": envelope.message_id, "subscription": self.subscription.name},
            )
        self.wake(line)
        return Ack()

    async def _in_slot(self, envelope: MessageEnvelope) -> Verdict:
        async with self._slots:
            return await self._handle(envelope)

    @asynccontextmanager
    async def _turn(self, line: LineId) -> AsyncGenerator[None]:
        lock, users = self._turns.get(line, (asyncio.Lock(), 0))
        self._turns[line] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns[line]
            if users == 1:
                del self._turns[line]
            else:
                self._turns[line] = (lock, users - 1)

    # -- whose turn it is

    def wake(self, line: LineId) -> None:
        """See to a line soon; one that is under way is seen to once more."""
        if self._closing or line in self._wanted:
            return
        self._wanted.add(line)
        if line not in self._tasks:
            self._ready.append(line)
            self._begin()

    async def scan(self) -> int:
        """Wake every line that has something to do and that nobody works; returns how many."""
        now_ms = await self._shelf.store.now_ms()
        woken = 0
        async for whose, line in self._shelf.lines(self.subscription.name):
            if whose not in self._tasks and line.may_begin(self._shelf.owner, now_ms):
                woken += 1
                self.wake(whose)
        return woken

    async def scan_in_turn(self) -> int:
        """Scan, unless scans take so long (tens of thousands of keys wait) that this would take more than a share of the time."""
        clock = self._terms.clock
        began = clock.monotonic()
        if began < self._scan_again_at:
            return 0
        woken = await self.scan()
        ended = clock.monotonic()
        self._scan_again_at = ended + _SCAN_SHARE * (ended - began)
        return woken

    def _begin(self) -> None:
        while self._ready and len(self._tasks) < self.subscription.parallelism and not self._closing:
            line = self._ready.popleft()
            self._wanted.discard(line)
            if (alarm := self._alarms.pop(line, None)) is not None:
                alarm.cancel()
            self._tasks[line] = asyncio.create_task(self._work(line), name=f"inbox {line.key}")

    async def _work(self, line: LineId) -> None:
        try:
            if await self._rounds(line):
                self.wake(line)
        except Lost as exc:
            logger.info("an inbox was taken over", extra={"error": str(exc)})
        except (StateUnavailable, MessagingError) as exc:
            logger.warning("an inbox waits", extra={"inbox": line.line, "error": f"{type(exc).__name__}: {exc}"})
            self._alarm(line, PAUSE)
        except Exception:
            logger.exception("an inbox failed unexpectedly and is tried again", extra={"inbox": line.line})
            self._alarm(line, PAUSE)
        finally:
            del self._tasks[line]
            if line in self._wanted:
                self._ready.append(line)
            self._begin()

    def _alarm(self, line: LineId, seconds: float) -> None:
        if not self._closing:
            loop = asyncio.get_running_loop()
            if (former := self._alarms.pop(line, None)) is not None:
                former.cancel()
            self._alarms[line] = loop.call_later(seconds, self._ring, line)

    def _ring(self, line: LineId) -> None:
        self._alarms.pop(line, None)
        self.wake(line)

    # -- working

    async def _rounds(self, line: LineId) -> bool:
        """Work a line until it is empty, waits, or had its turn; whether there is more to do at once."""
        grant = await self._shelf.take(line)
        if not isinstance(grant, Grant):
            if math.isfinite(grant):
                self._alarm(line, grant)
            return False
        deaths = grant.deaths
        for _ in range(_TURN):
            if self._closing:
                await self._shelf.release(grant)
                return False
            try:
                found = await self._shelf.head(grant)
            except Unreadable as exc:
                logger.error("an inbox is blocked", extra={"inbox": line.line, "error": str(exc)})
                # A newer release may have written it: it is kept, and given another try when the key is released.
                await self._shelf.block(grant, exc.number, UNREADABLE, str(exc), keep=True)
                return False
            if found is None:
                return False
            number, envelope = found
            if deaths:
                envelope, deaths = envelope.replace(redelivered=True, returns=deaths), 0
            if not await self._settle(grant, number, envelope, await self._outcome(grant, envelope)):
                return False
        return True

    async def _outcome(self, grant: Grant, envelope: MessageEnvelope) -> Outcome:
        if envelope.returns > _MOST_DEATHS:
            reason = f"{envelope.returns} processes ended while they handled it: handling it may be what kills them"
            verdict: Verdict = DeadLetter(reason=reason)
        else:
            verdict = await self._handled(grant, envelope)
        now_ms = self._terms.clock.now_ms()
        return decide(envelope, verdict, self.subscription.retry, queue=self._queue, now_ms=now_ms)

    async def _handled(self, grant: Grant, envelope: MessageEnvelope) -> Verdict:
        """Run the handler with the grant prolonged as long as it runs. Raises Lost: it was cancelled."""
        handling = asyncio.ensure_future(self._in_slot(envelope))
        clock, lease = self._terms.clock, self._terms.lease
        good_until = clock.monotonic() + lease
        try:
            while True:
                done, _ = await asyncio.wait({handling}, timeout=lease / 3)
                if done:
                    break
                asked = clock.monotonic()
                try:
                    await self._shelf.prolong(grant)
                    good_until = asked + lease
                except StateUnavailable as exc:
                    if clock.monotonic() >= good_until:
                        raise Lost(f"the lease of {grant.id.line} could not be prolonged: {exc}") from exc
        finally:
            if not handling.done():
                handling.cancel()
                await asyncio.wait({handling}, timeout=_GRACE)
        if handling.cancelled():
            # Nobody cancelled it: it stumbled over something that was, and would again, for ever.
            return failed_attempt(asyncio.CancelledError())
        try:
            verdict = handling.result()
            if not isinstance(verdict, Ack | Retry | DeadLetter):
                raise TypeError(f"the handler returned {verdict!r} instead of a verdict")
        except Exception as exc:
            return failed_attempt(exc)
        return verdict

    async def _settle(self, grant: Grant, number: int, envelope: MessageEnvelope, outcome: Outcome) -> bool:
        """Store the outcome; whether the next one may be begun."""
        shelf, keep, one = self._shelf, self._persistence, envelope.message_id
        match outcome:
            case Forget():
                remember = self.subscription.remember or _REMEMBER
                return await keep.stored(lambda: shelf.done(grant, number, one, remember=remember))
            case Delay(envelope=later):
                due_ms = later.due_ms or 0
                await keep.stored(lambda: shelf.postpone(grant, number, later, due_ms))
                self._alarm(grant.id, max(0, due_ms - await shelf.store.now_ms()) / 1000)
                return False
            case Bury(envelope=dead, failure=failure):
                bury = self._terms.bury
                buried = await keep.buried(lambda: bury(self._queue, dead, failure), grant, dead, failure)
                if buried and self._ordered.on_dead == "skip":
                    return await keep.stored(lambda: shelf.skip(grant, number, one))
                reason = failure.reason
                await keep.stored(lambda: shelf.block(grant, number, one, reason, keep=not buried))
                logger.warning(
                    "a dead letter holds up its key",
                    extra={"message_id": one, "subscription": self.subscription.name, "key": grant.id.key},
                )
                return False

    # -- the end

    async def close(self, *, timeout: float) -> int:
        """Begin nothing more, wait for what is under way, end the rest; returns how many handlers were ended."""
        self.stop()
        held = {*self._tasks, *self._ready}
        running = set(self._tasks.values())
        if running and timeout > 0:
            _, running = await asyncio.wait(running, timeout=timeout)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=2 * _GRACE)
        try:
            for line in held:
                await self._shelf.give_up(line)
        except StateUnavailable as exc:
            logger.info("keys were not given back", extra={"error": str(exc), "subscription": self.subscription.name})
        return len(running)

    def stop(self) -> None:
        """Begin nothing more."""
        self._closing = True
        self._persistence.stop()
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()

    async def kill(self) -> None:
        """End as if the process had been killed: nothing is settled or given back. For tests."""
        self.stop()
        running = set(self._tasks.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
