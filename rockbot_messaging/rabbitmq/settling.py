"""Carries out what was decided about a delivery: the new copy is stored and confirmed before the old one is forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final, final

from rockbot_messaging.errors import MessagingError, Undecodable, Unroutable
from rockbot_messaging.observing import tell
from rockbot_messaging.ports import BusObserver
from rockbot_messaging.rabbitmq.channel import Parcel
from rockbot_messaging.rabbitmq.failures import broker_history
from rockbot_messaging.rabbitmq.fields import Properties
from rockbot_messaging.rabbitmq.handling import Item
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.rabbitmq.wire import properties_of
from rockbot_messaging.settlement import Bury, Delay, Forget, Outcome

__all__ = ["Settler"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Seconds a delivery is held before it goes back because its copy could not be stored, so that nothing spins.
_PAUSE: Final = 1.0


@final
class Settler:
    """Settles the deliveries of one work queue.

    `restore` creates the delay queue of a step, or with None the work queue and its dead-letter queue. `observer` is told
    what was carried out.
    """

    def __init__(
        self,
        queue: str,
        names: Names,
        packer: Packer,
        sender: Sender,
        restore: Callable[[int | None], Awaitable[None]],
        *,
        name: str = "",
        observer: BusObserver | None = None,
    ) -> None:
        self._queue = queue
        self._name = name
        self._observer = observer
        self._names = names
        self._packer = packer
        self._sender = sender
        self._restore = restore

    async def carry_out(self, outcome: Outcome, item: Item, *, problem: str = "", handled: bool = True) -> None:
        """Settle `item` as decided; a delivery whose channel is gone is left to come again.

        Not `handled` is one that only goes on waiting: the observer hears nothing of it.
        """
        tag = item.delivery.tag
        if isinstance(outcome, Forget):
            item.acks.ack(tag)
            return
        if item.channel.lost is not None:
            return
        step: int | None = None
        error: Exception | None
        try:
            if isinstance(outcome, Delay):
                step = outcome.step or None
                queue = self._names.delay(self._queue, step) if step else self._queue
                parcel = self._packer.for_queue(outcome.envelope, queue, passed_on=True)
            else:
                parcel = self._grave(outcome, item, problem)
            error = await self._store(parcel, step)
        except Exception as exc:
            # Whatever it was, a delivery that nobody settles would be held for as long as the channel stands.
            error = exc
        if error is None:
            item.acks.ack(tag)
            if handled and self._observer is not None:
                tell(self._observer, self._name, outcome)
            return
        _log.error(
            "a message of %s could not be moved to %s and goes back to its queue: %s",
            self._queue,
            "its dead-letter queue" if isinstance(outcome, Bury) else f"the delay of {step or 0} s",
            error,
            exc_info=None if isinstance(error, MessagingError | ValueError) else error,
        )
        await asyncio.sleep(_PAUSE)
        item.acks.hand_back(tag)

    async def _store(self, parcel: Parcel, step: int | None) -> MessagingError | None:
        (error,) = await self._sender.deliver([parcel])
        if isinstance(error, Unroutable):
            # Delay queues are made when first needed; a deleted dead-letter queue is made again.
            await self._restore(step)
            (error,) = await self._sender.deliver([parcel])
        return error

    def _grave(self, outcome: Bury, item: Item, problem: str) -> Parcel:
        try:
            properties = properties_of(item.delivery)
        except Undecodable:
            properties = Properties()
        failure = outcome.failure
        if history := broker_history(properties):
            failure = dataclasses.replace(failure, broker=history)
        grave = self._names.dead_letters(self._queue)
        return self._packer.for_grave(outcome.envelope, grave, failure, problem=problem)
