"""Looks at a broker over AMQP alone: every name by itself, because AMQP lists nothing.

A passive declare says whether a queue or exchange exists; only where it does, a real declare has the broker compare the
arguments. So a look creates nothing (unless somebody deletes the queue between the two).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, final

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Session, speaking
from rockbot_messaging.rabbitmq.declaring import explain_mismatch
from rockbot_messaging.rabbitmq.found import Found, FoundExchange, FoundQueue
from rockbot_messaging.rabbitmq.topology import Exchange, Queue, Topology

__all__ = ["probe"]

_TIMEOUT: Final = 30.0

BLIND: Final = (
    "bindings (apply makes sure of every one that is needed; surplus ones stay)",
    "policies and limits",
    "queues and exchanges that are not needed any more",
    "messages in somebody's hands",
)


async def probe(session: Session, wanted: Topology, *, perhaps: Iterable[Queue] = ()) -> Found:
    """What of `wanted` there is; `perhaps` are queues that are right when they exist and not missed when they do not.

    Raises:
        ChannelLost: the connection ended meanwhile.
    """
    look = _Look(session)
    queues, exchanges = {}, {}
    for queue in (*wanted.queues, *perhaps):
        if (found := await look.queue(queue)) is not None:
            queues[queue.name] = found
    for exchange in wanted.exchanges:
        if (seen := await look.exchange(exchange)) is not None:
            exchanges[exchange.name] = seen
    await look.end()
    return Found(
        version=session.server_version,
        queues=queues,
        exchanges=exchanges,
        blind=(*BLIND, *dict.fromkeys(look.unseen)),
    )


@final
class _Look:
    """A channel that is opened again whenever a refusal closed it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: tuple[AbstractChannel, Callable[[], Awaitable[None]]] | None = None
        self.unseen: list[str] = []

    async def queue(self, queue: Queue) -> FoundQueue | None:
        """The queue, None when there is none."""
        messages = consumers = 0

        async def exists(rpc: AbstractChannel) -> None:
            nonlocal messages, consumers
            answer = await rpc.queue_declare(queue.name, passive=True)
            messages, consumers = answer.message_count or 0, answer.consumer_count or 0

        async def equals(rpc: AbstractChannel) -> None:
            await rpc.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))

        differs = await self._ask("queue", queue.name, exists, equals)
        if differs is None:
            return None
        return FoundQueue(name=queue.name, differs=differs, messages=messages, consumers=consumers)

    async def exchange(self, exchange: Exchange) -> FoundExchange | None:
        """The exchange, None when there is none."""

        async def exists(rpc: AbstractChannel) -> None:
            await rpc.exchange_declare(exchange.name, passive=True)

        async def equals(rpc: AbstractChannel) -> None:
            await rpc.exchange_declare(
                exchange.name, exchange_type=exchange.kind, durable=True, arguments=dict(exchange.arguments)
            )

        differs = await self._ask("exchange", exchange.name, exists, equals)
        return None if differs is None else FoundExchange(name=exchange.name, kind=exchange.kind, differs=differs)

    async def _ask(
        self,
        kind: Literal["queue", "exchange"],
        name: str,
        exists: Callable[[AbstractChannel], Awaitable[None]],
        equals: Callable[[AbstractChannel], Awaitable[None]],
    ) -> str | None:
        """None when it does not exist, else what differs (empty for nothing)."""
        try:
            async with speaking(_TIMEOUT):
                await exists(await self._channel())
        except ChannelNotFoundEntity:
            await self.end()
            return None
        except AMQPError as exc:
            raise ChannelLost(str(exc) or type(exc).__name__) from exc
        try:
            async with speaking(_TIMEOUT):
                await equals(await self._channel())
        except ChannelPreconditionFailed as exc:
            await self.end()
            return explain_mismatch(str(exc))
        except ChannelAccessRefused:
            await self.end()
            self.unseen.append(f"arguments of {kind} {name} (this user may not declare it)")
        except AMQPError as exc:
            raise ChannelLost(str(exc) or type(exc).__name__) from exc
        return ""

    async def _channel(self) -> AbstractChannel:
        if self._open is None:
            channel = await self._session.channel(confirms=False)
            self._open = (channel.rpc, channel.close)
        return self._open[0]

    async def end(self) -> None:
        """Close what is open."""
        if self._open is not None:
            await self._open[1]()
            self._open = None
