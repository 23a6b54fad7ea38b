"""How many messages and consumers queues have, by passive declarations: that needs no management interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from aiormq.exceptions import ChannelNotFoundEntity

from rockbot_messaging.rabbitmq.connection import Link, speaking

__all__ = ["Counts", "count_queues"]

#: Seconds that counting all queues may take.
_PATIENCE: Final = 60.0


@final
@dataclass(frozen=True, slots=True)
class Counts:
    """`ready` are the messages that nobody has in hand."""

    ready: int = 0
    consumers: int = 0


async def count_queues(link: Link, names: Sequence[str], *, connect: float) -> list[Counts]:
    """The counts of each of these queues, in their order; nothing of those that are not there.

    Raises:
        BrokerUnreachable: no connection within `connect` seconds. AMQPError, ChannelLost: it was lost.
    """
    session = await link.session(connect)
    found: list[Counts] = []
    while len(found) < len(names):
        channel = await session.channel(confirms=False)
        try:
            async with speaking(_PATIENCE):
                for name in names[len(found) :]:
                    answer = await channel.rpc.queue_declare(name, passive=True)
                    found.append(Counts(answer.message_count or 0, answer.consumer_count or 0))
        except ChannelNotFoundEntity:
            # That ended the channel; the queue is not there yet.
            found.append(Counts())
        finally:
            await channel.close()
    return found
