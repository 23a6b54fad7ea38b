"""Slots of one process that several subscriptions share: the most urgent goes first, and nobody waits for ever.

A broker's priorities would order one queue; lanes are several, so that each can be watched, limited and emptied alone. The
order among what waits is by one number, the instant of arrival plus the rank times the ageing: a delivery goes before every
less urgent one until that one has waited for as many times the ageing as ranks lie between them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.subscriptions import Lane
from rockbot_messaging.verdicts import Retry, Verdict

__all__ = ["LaneGate", "Laned"]


@final
class LaneGate:
    """The slots of one group."""

    def __init__(self, slots: int, *, clock: Clock) -> None:
        self.slots = slots
        self._free = slots
        self._clock = clock
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[bool]]] = []
        self._draining = False

    def drain(self) -> None:
        """Let nothing wait from here on: `enter` says False at once."""
        self._draining = True
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_result(False)
        self._waiting.clear()

    async def enter(self, lane: Lane) -> bool:
        """Take a slot, waiting for one if need be; False when the gate is being drained. Leave it with `leave`."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        if self._draining:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        at = self._clock.monotonic() + lane.rank * lane.ageing
        heapq.heappush(self._waiting, (at, next(self._numbers), turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()  # it was given a slot, and is not there to take it
            raise

    def leave(self) -> None:
        """Give a slot to whoever is next."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1


@final
class Laned:
    """`handle` is a `MessageHandler` around `handler` that runs in a slot of its lane's group."""

    def __init__(self, lane: Lane, gate: LaneGate, handler: MessageHandler) -> None:
        self._lane = lane
        self._gate = gate
        self._handler = handler

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """The handler's verdict."""
        if not await self._gate.enter(self._lane):
            return Retry(after=1.0, reason="this process is stopping", counted=False)
        try:
            return await self._handler(envelope)
        finally:
            self._gate.leave()
