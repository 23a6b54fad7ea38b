"""The outage guard around one subscription's handler.

While everything fails, one delivery at a time is tried and costs no attempt. The others wait in hand for a short while,
because most outages are short, and are then handed back until about the next probe: nothing is held near the broker's
consumer timeout, and nothing goes round in circles.

A few bad messages on a quiet subscription look like an outage too: all that there is fails, and no good one comes to end it.
So a probe whose error speaks of the message (a ValueError, a KeyError) does cost its attempt: bad messages become dead
letters within the hour instead of being probed for days. Should it be an outage after all, in which a broken answer is what
a handler stumbles over, that costs one attempt per probe, at most one a minute, and no queue of sound messages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from datetime import UTC, datetime
from functools import partial
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.regulation.outages import Outage, OutageStatus
from rockbot_messaging.regulation.raised import as_retry, is_about_the_message
from rockbot_messaging.regulation.timing import Timer
from rockbot_messaging.subscriptions import OutageGuard, WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = ["Guarded"]

logger = logging.getLogger("rockbot_messaging.regulation")

#: Seconds that a delivery waits in hand at most.
_PATIENCE: Final = 20.0
#: Seconds within which everything that is prefetched has been looked at once: a third of RabbitMQ's consumer timeout.
_LONGEST_HOLD: Final = 600.0
#: Seconds away from the queue at least.
_SHORTEST_RETURN: Final = 1.0
#: Seconds away from the queue at most. Growing with the hand-backs, they let a message outlast days within its limit.
_LONGEST_RETURN: Final = 600.0


@final
class Guarded:
    """`handle` is a `MessageHandler` around `handler`."""

    def __init__(
        self,
        subscription: WorkSubscription,
        guard: OutageGuard,
        handler: MessageHandler,
        *,
        clock: Clock,
        measures: Measures,
    ) -> None:
        self._name = subscription.name
        self._handler = handler
        self._clock = clock
        self._measures = measures
        rounds = -(-subscription.prefetch // subscription.parallelism)
        self._patience = min(_PATIENCE, _LONGEST_HOLD / rounds)
        #: A redelivered message is alone in hand, everything else that is prefetched waits behind it.
        self._patience_alone = min(_PATIENCE, _LONGEST_HOLD / subscription.prefetch)
        self._outage = Outage(guard)
        self._since_ms = 0
        self._draining = False
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._probe_timer = Timer(clock, self._probe_is_due)

    def status(self) -> OutageStatus | None:
        """The outage, None when there is none."""
        outage = self._outage
        if not outage.on:
            return None
        return OutageStatus(
            subscription=self._name,
            since_ms=self._since_ms,
            error=outage.error,
            probes=outage.probes,
            waiting=len(self._waiting),
            probe_in=outage.probe_in(self._clock.monotonic()),
        )

    def drain(self) -> None:
        """Let nothing wait from here on: what would is handed back at once."""
        self._draining = True
        self._probe_timer.cancel()
        self._wake_all()

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """The handler's verdict; during an outage one that costs no attempt, unless it speaks of the message itself."""
        if self._outage.on and not await self._may_go(envelope):
            return self._hand_back(envelope)
        if self._outage.on:
            return await self._probe(envelope)
        try:
            verdict = await self._handler(envelope)
        except Exception as exc:
            verdict = as_retry(exc)
        if type(verdict) is Ack:
            if not self._outage.quiet:
                self._succeeded()
            return verdict
        return self._judge(envelope, verdict)

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def _may_go(self, envelope: MessageEnvelope) -> bool:
        """Wait until the outage is over or this delivery may be its probe; False when it waited long enough."""
        patience = self._patience_alone if envelope.redelivered else self._patience
        give_up = self._clock.monotonic() + patience
        while self._outage.on:
            now = self._clock.monotonic()
            if self._draining:
                return False
            if self._outage.may_probe(now):
                return True
            if now >= give_up:
                return False
            await self._pause(give_up - now)
        return True

    async def _pause(self, seconds: float) -> None:
        """Until somebody wakes this delivery, or the time is over."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = Timer(self._clock, partial(_wake, turn))
        timer.set(seconds)
        self._waiting[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake_one()  # what woke this one is somebody else's turn now
            raise
        finally:
            timer.cancel()
            self._waiting.pop(turn, None)

    def _probe_is_due(self) -> None:
        left = self._outage.probe_in(self._clock.monotonic())
        if left > 0 and not self._draining:
            self._probe_timer.set(left)  # timers may ring a hair early
        else:
            self._wake_one()

    def _wake_one(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_all(self) -> None:
        for turn in self._waiting:
            _wake(turn)

    def _hand_back(self, envelope: MessageEnvelope) -> Retry:
        return Retry(
            after=self._return_after(envelope), reason=f"{self._since()}, waiting: {self._outage.error}", counted=False
        )

    def _return_after(self, envelope: MessageEnvelope) -> float:
        if self._draining:
            return _SHORTEST_RETURN  # for another process it may be no outage
        often = min(_LONGEST_RETURN, 2.0 * envelope.handbacks)
        return max(_SHORTEST_RETURN, often, self._outage.probe_in(self._clock.monotonic()))

    # -- trying --------------------------------------------------------------------------------------------------------

    async def _probe(self, envelope: MessageEnvelope) -> Verdict:
        self._outage.probe_begins()
        try:
            verdict = await self._handler(envelope)
        except Exception as exc:
            verdict = as_retry(exc)
        except BaseException:
            self._probe_said_nothing(wait=False)
            raise
        if type(verdict) is Ack:
            self._succeeded()
            return verdict
        if not self._outage.on:  # another message succeeded meanwhile
            return self._judge(envelope, verdict)
        if isinstance(verdict, Retry) and verdict.counted:
            self._outage.probe_failed(_error(verdict), self._clock.monotonic())
            self._set_probe_timer()
            return verdict if is_about_the_message(verdict) else self._uncounted(envelope, verdict, "probing")
        self._probe_said_nothing(wait=not isinstance(verdict, DeadLetter))
        return verdict

    def _probe_said_nothing(self, *, wait: bool) -> None:
        if self._outage.on:
            self._outage.probe_said_nothing(self._clock.monotonic(), wait=wait)
            self._set_probe_timer()

    def _judge(self, envelope: MessageEnvelope, verdict: Verdict) -> Verdict:
        if not isinstance(verdict, Retry) or not verdict.counted:
            return verdict
        if self._outage.on:  # begun before the outage was
            self._outage.failed("", _error(verdict), self._clock.monotonic())
            return self._uncounted(envelope, verdict, "waiting")
        who = f"{envelope.tenant}\0{envelope.message_id}"
        if self._outage.failed(who, _error(verdict), self._clock.monotonic()):
            self._begins(verdict)
        return verdict

    def _uncounted(self, envelope: MessageEnvelope, verdict: Retry, what: str) -> Retry:
        after = max(verdict.after or 0.0, self._return_after(envelope))
        reason = f"{self._since()}, {what}: {verdict.reason or verdict.error_type}"
        return dataclasses.replace(verdict, after=after, reason=reason, counted=False)

    def _set_probe_timer(self) -> None:
        self._probe_timer.set(self._outage.probe_in(self._clock.monotonic()))

    # -- begin and end -------------------------------------------------------------------------------------------------

    def _begins(self, verdict: Retry) -> None:
        self._since_ms = self._clock.now_ms()
        self._set_probe_timer()
        self._measures.gauge(Names.OUTAGE, 1, subscription=self._name)
        logger.warning(
            "outage: every message of a subscription fails; until one succeeds, one at a time is tried and no attempt"
            " is spent",
            extra={"subscription": self._name, "handler": verdict.handler, "error": self._outage.error},
        )

    def _succeeded(self) -> None:
        seconds = self._clock.monotonic() - self._outage.since
        if not self._outage.succeeded():
            return
        self._probe_timer.cancel()
        self._measures.gauge(Names.OUTAGE, 0, subscription=self._name)
        logger.warning(
            "outage over: a message of the subscription was handled",
            extra={"subscription": self._name, "seconds": round(seconds, 1), "probes": self._outage.probes},
        )
        self._wake_all()

    def _since(self) -> str:
        since = datetime.fromtimestamp(self._since_ms / 1000, UTC).isoformat(timespec="seconds")
        return f"outage since {since.replace('+00:00', 'Z')}"


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _error(verdict: Retry) -> str:
    return ": ".join(part for part in (verdict.error_type, " ".join(verdict.reason.split())[:300]) if part)
