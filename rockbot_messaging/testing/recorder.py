"""A handler that remembers what it was given and does what the test told it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from rockbot_messaging.clock import Clock, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["Reaction", "Recorder", "Seen"]

#: What to do with a delivery: a verdict to return, or an exception to raise.
Reaction = Verdict | Exception


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """One call of the handler and the instant of it on the recorder's clock."""

    envelope: MessageEnvelope
    at_ms: int


@final
class Recorder:
    """A `MessageHandler`.

    Args:
        reactions: for the first, second, ... delivery; a callable decides by the envelope. What comes after is acked.
        clock: stamps the calls.
        held: handlers wait, once recorded, until `release` is called.
    """

    def __init__(
        self,
        reactions: Iterable[Reaction] | Callable[[MessageEnvelope], Reaction] = (),
        *,
        clock: Clock | None = None,
        held: bool = False,
    ) -> None:
        self.seen: list[Seen] = []
        self.running = 0
        self.peak = 0
        self.finished = 0
        self._decide: Callable[[MessageEnvelope], Reaction]
        if callable(reactions):
            self._decide = reactions
        else:
            planned = iter(tuple(reactions))
            self._decide = lambda _: next(planned, Ack())
        self._clock: Clock = clock or SystemClock()
        self._open = asyncio.Event()
        if not held:
            self._open.set()
        self._changed = asyncio.Condition()

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        self.seen.append(Seen(envelope, self._clock.now_ms()))
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self._tell()
            await self._open.wait()
            reaction = self._decide(envelope)
            self.finished += 1
        finally:
            self.running -= 1
            await self._tell()
        if isinstance(reaction, Exception):
            raise reaction
        return reaction

    def release(self) -> None:
        """Let held handlers, and all later ones, go on."""
        self._open.set()

    @property
    def envelopes(self) -> list[MessageEnvelope]:
        """What came, in the order it came."""
        return [seen.envelope for seen in self.seen]

    @property
    def ids(self) -> list[str]:
        """Message ids of what came, in the order it came."""
        return [seen.envelope.message_id for seen in self.seen]

    async def wait_for(self, count: int, *, timeout: float = 60) -> list[MessageEnvelope]:
        """Return all that came once there are `count` of them.

        Raises:
            TimeoutError: fewer came within `timeout` real seconds; the text says how many.
        """
        await self._wait(lambda: len(self.seen) >= count, timeout, lambda: f"{len(self.seen)} of {count} came")
        return self.envelopes

    async def wait_finished(self, count: int, *, timeout: float = 60) -> None:
        """Return once `count` handlers have run to their end.

        Raises:
            TimeoutError: fewer did within `timeout` real seconds.
        """
        await self._wait(lambda: self.finished >= count, timeout, lambda: f"{self.finished} of {count} finished")

    async def _wait(self, condition: Callable[[], bool], timeout: float, problem: Callable[[], str]) -> None:
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise TimeoutError(f"after {timeout:g} s only {problem()}") from None

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
