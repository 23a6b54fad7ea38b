"""Makes a topology exist: creates what is missing, alters nothing, explains what stands in the way."""

from __future__ import annotations

import re
from typing import Final

from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from rockbot_messaging.errors import BrokerUnreachable, TopologyMismatch
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Session, speaking
from rockbot_messaging.rabbitmq.topology import Topology

__all__ = ["NameTaken", "declare", "depth", "explain_mismatch"]

_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>\w+) '(?P<name>[^']*)' in vhost '(?P<vhost>[^']*)':"
    r" received (?:the value )?(?P<wanted>.*?) but current is (?:the value )?(?P<found>.*)"
)


#: Seconds that all declarations of one topology may take; a quorum queue without a majority does not answer at all.
_TIMEOUT: Final = 30.0


class NameTaken(Exception):
    """A transient queue still belongs to a connection that the broker has not given up yet."""


async def declare(session: Session, topology: Topology) -> None:
    """Create what is missing, on a channel of its own so that a refusal closes no other.

    Raises:
        TopologyMismatch: something exists with other properties; what is named before it was created.
        BrokerUnreachable: this user may not create it.
        NameTaken: see there.
        ChannelLost: the connection ended meanwhile.
    """
    channel = await session.channel(confirms=False)
    rpc = channel.rpc
    try:
        async with speaking(_TIMEOUT):
            for queue in topology.queues:
                await rpc.queue_declare(
                    queue.name,
                    durable=not queue.transient,
                    exclusive=queue.transient,
                    auto_delete=queue.transient,
                    arguments=dict(queue.arguments),
                )
            for exchange in topology.exchanges:
                await rpc.exchange_declare(
                    exchange.name, exchange_type=exchange.kind, durable=True, arguments=dict(exchange.arguments)
                )
            for binding in topology.bindings:
                await rpc.queue_bind(binding.queue, binding.exchange, binding.pattern)
    except ChannelPreconditionFailed as exc:
        raise TopologyMismatch(explain_mismatch(str(exc))) from None
    except ChannelLockedResource as exc:
        raise NameTaken(str(exc)) from None
    except ChannelAccessRefused as exc:
        raise BrokerUnreachable(f"RabbitMQ refuses to create what is needed: {exc}") from None
    except AMQPError as exc:
        raise ChannelLost(str(exc) or type(exc).__name__) from exc
    finally:
        await channel.close()


async def depth(session: Session, queue: str) -> int | None:
    """Messages waiting in a queue, or None when there is no such queue.

    Raises:
        ChannelLost: the connection ended meanwhile.
    """
    channel = await session.channel(confirms=False)
    try:
        async with speaking(_TIMEOUT):
            answer = await channel.rpc.queue_declare(queue, passive=True)
        return answer.message_count or 0
    except ChannelNotFoundEntity:
        return None
    except AMQPError as exc:
        raise ChannelLost(str(exc) or type(exc).__name__) from exc
    finally:
        await channel.close()


def explain_mismatch(broker_text: str) -> str:
    """The broker's 406 as one line that says what differs and what to do."""
    found = _INEQUIVALENT.search(broker_text)
    if found is None:
        return f"RabbitMQ refuses a declaration: {broker_text}. Nothing that exists was changed."
    return (
        f"{found['kind']} {found['name']!r} in virtual host {found['vhost']!r} exists with another "
        f"{found['argument']!r}: it has {_value(found['found'])}, needed is {_value(found['wanted'])}. Nothing was "
        "changed: drain and delete it, or use another namespace"
    )


def _value(text: str) -> str:
    return re.sub(r"^(?:the value )?'(?P<value>[^']*)'(?: of type '[^']*')?.*$", r"\g<value>", text.strip())
