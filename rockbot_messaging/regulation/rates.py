"""The rate limit of one subscription in one process: a token bucket, first come first served.

A delivery that must wait does so in hand, where it keeps its place. It takes no slot of a lane meanwhile, and a
subscription that waits holds up no other one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.regulation.timing import Timer
from rockbot_messaging.subscriptions import Rate
from rockbot_messaging.verdicts import Retry, Verdict

__all__ = ["LONGEST_WAIT", "RateLimited", "TokenBucket", "most_in_hand"]

#: Seconds that a delivery waits in hand for its turn: a third of RabbitMQ's consumer timeout.
LONGEST_WAIT: Final = 600.0


def most_in_hand(rate: Rate) -> int:
    """How many deliveries can be begun within the longest wait: the largest prefetch that makes sense with this rate."""
    return max(1, rate.burst + int(rate.per_second * LONGEST_WAIT))


@final
class TokenBucket:
    """`rate.burst` tokens at first and at most, refilled by `rate.per_second`. Instants are seconds, never going back."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give(self) -> None:
        """Put a token back that was taken for nothing."""
        self._tokens = min(self._tokens + 1, self._rate.burst)

    def wait(self, now: float, ahead: int = 0) -> float:
        """Seconds until there is a token for whoever has `ahead` others before them."""
        self._refill(now)
        return max(0.0, (ahead + 1 - self._tokens) / self._rate.per_second)

    def _refill(self, now: float) -> None:
        grown = self._tokens + (now - self._at) * self._rate.per_second
        # A billionth of a token is what floats lose on the way, not a delivery too many.
        self._tokens = min(float(self._rate.burst), grown if grown < 1 - 1e-9 else max(1.0, grown))
        self._at = now


@final
class RateLimited:
    """`handle` is a `MessageHandler` around `handler` that begins no more often than `rate` allows."""

    def __init__(self, name: str, rate: Rate, handler: MessageHandler, *, clock: Clock, measures: Measures) -> None:
        self._name = name
        self._handler = handler
        self._clock = clock
        self._measures = measures
        self._bucket = TokenBucket(rate, clock.monotonic())
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._timer = Timer(clock, self._next)
        self._draining = False

    def drain(self) -> None:
        """Let nothing wait from here on: what would is handed back at once."""
        self._draining = True
        self._timer.cancel()
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(False)
        self._waiting.clear()

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """The handler's verdict, in its turn."""
        if (self._waiting or not self._bucket.take(self._clock.monotonic())) and not await self._turn():
            after = max(1.0, self._bucket.wait(self._clock.monotonic(), len(self._waiting)))
            return Retry(after=1.0 if self._draining else after, reason="over its subscription's rate", counted=False)
        return await self._handler(envelope)

    async def _turn(self) -> bool:
        self._measures.count(Names.RATE_LIMITED, subscription=self._name)
        if self._draining or self._bucket.wait(self._clock.monotonic(), len(self._waiting)) > LONGEST_WAIT:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._set_timer()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                if turn.result():
                    self._bucket.give()
                    self._next()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _next(self) -> None:
        while self._waiting and self._bucket.take(self._clock.monotonic()):
            turn = self._waiting.popleft()
            if turn.done():
                self._bucket.give()
            else:
                turn.set_result(True)
        if self._waiting:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer.set(self._bucket.wait(self._clock.monotonic()))
