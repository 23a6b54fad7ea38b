"""Notices a consumer that the broker has forgotten: its channel stands, messages wait, and none is delivered.

That happens when the leader of a queue moves or its member dies at the wrong moment. The broker tells nobody, so a consumer
that has nothing to do and hears nothing asks now and then whether there is something for it.

There is a worse case: when a quorum queue is deleted and declared again at once, the broker (3.10) moves its consumers to the
new one and takes its first messages for copies of those delivered from the old one. They are never delivered, and count as
taken, so that nobody can see them; only the end of the channel frees them. So a channel that brought something and then
nothing for a while is exchanged for a new one, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, final

from aiormq.exceptions import AMQPError

from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import OpenChannel, speaking

__all__ = ["Quiet"]

#: Seconds that the broker gets to answer.
_TIMEOUT: Final = 20.0
#: Questions in a row without a delivery, after which a channel that had any is exchanged.
_RENEW_AFTER: Final = 3
#: Of the time between two questions, the part that messages which wait get to be delivered.
_GRACE: Final = 0.2


@final
class Quiet:
    """Watches one consumer.

    Args:
        queue: what it consumes.
        seconds: between two questions.
        idle: whether it has nothing in hand.
        renew: whether its channel may be exchanged; an exclusive queue would go with it.
    """

    def __init__(self, queue: str, seconds: float, idle: Callable[[], bool], *, renew: bool) -> None:
        self._queue = queue
        self._seconds = seconds
        self._idle = idle
        self._renew = renew
        #: Deliveries so far; whoever receives them counts.
        self.deliveries = 0
        self._at_first = 0

    def begin(self) -> None:
        """A new channel begins to consume."""
        self._at_first = self.deliveries

    async def until_forgotten(self, channel: OpenChannel) -> str | None:
        """Wait until the consumer on `channel` gets nothing although it could, and say why that seems so; None if nothing
        seems so and it should be renewed nevertheless."""
        quiet = 0
        while True:
            seen = self.deliveries
            await asyncio.sleep(self._seconds)
            if not self._still(seen):
                quiet = 0
                continue
            quiet += 1
            if self._renew and quiet >= _RENEW_AFTER and seen != self._at_first:
                return None
            try:
                async with speaking(_TIMEOUT):
                    # On the consumer's own channel: a queue that is not there any more ends it, as it should.
                    answer = await channel.rpc.queue_declare(self._queue, passive=True)
            except (AMQPError, ChannelLost) as exc:
                return str(exc) or type(exc).__name__
            if answer.message_count and self._still(seen):
                await asyncio.sleep(self._seconds * _GRACE)
                if self._still(seen):
                    return f"{answer.message_count} messages wait there and none is delivered"

    def _still(self, seen: int) -> bool:
        return self.deliveries == seen and self._idle()
