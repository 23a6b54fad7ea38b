"""One connection to one member from its opening to its end, and its channels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final, final

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import AMQPError

from rockbot_messaging.broker_urls import Address
from rockbot_messaging.rabbitmq.channel import Channel, ChannelLost
from rockbot_messaging.rabbitmq.tap import Outbox, TappedStream, TappedTransport

__all__ = ["OpenChannel", "OwnConnection", "Session", "speaking"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Bytes of a frame where the broker sets no limit.
_FRAME_MAX: Final = 131072
#: Seconds that opening a channel may take.
_CHANNEL_TIMEOUT: Final = 20.0
#: Seconds that saying goodbye may take.
_CLOSE_TIMEOUT: Final = 5.0


@contextlib.asynccontextmanager
async def speaking(timeout: float) -> AsyncGenerator[None]:
    """Talk to the broker through the library for at most `timeout` seconds.

    A library whose connection ends under a call may report that by cancelling the call, which is not a cancellation of
    whoever made it. What the broker answers to the call itself (an `AMQPError`) passes.

    Raises:
        ChannelLost: no answer in time, or the connection ended.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise ChannelLost(f"the broker did not answer within {timeout:g} s") from None
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ChannelLost("the connection ended") from exc
    except AMQPError:
        raise
    except Exception as exc:
        raise ChannelLost(str(exc) or type(exc).__name__) from exc


@final
class OpenChannel:
    """A channel of a session: `content` for messages, `rpc` (the library's) for everything else."""

    def __init__(self, owner: AbstractChannel, rpc: aiormq.abc.AbstractChannel, content: Channel) -> None:
        self._owner = owner
        self.rpc = rpc
        self.content = content
        self.ended = asyncio.Event()
        rpc.closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        reason = "" if closing.cancelled() else str(closing.exception() or "")
        self.content.fail(ChannelLost(reason or "the channel was closed"))
        self.ended.set()

    async def close(self) -> None:
        """Close it; deliveries that were not settled go back."""
        self.content.flush()
        self.content.fail(ChannelLost("the channel was closed"))
        with contextlib.suppress(AMQPError, ChannelLost):
            async with speaking(_CLOSE_TIMEOUT):
                await self._owner.close()
        self.ended.set()


@final
class OwnConnection(aio_pika.Connection):
    """The library's, without its finalizer: that starts a task in whatever loop there is, or warns that there is none."""

    def __del__(self) -> None:
        """Sessions end their connections themselves."""


@final
class Session:
    """One connection to one member from its opening to its end."""

    def __init__(self, connection: aio_pika.Connection, transport: TappedTransport, member: Address) -> None:
        self._connection = connection
        self.member = member
        self._stream: TappedStream = transport.stream
        self.outbox: Outbox = transport.outbox
        assert connection.transport is not None
        self._wire = connection.transport.connection
        self.ended = asyncio.Event()
        self._wire.closing.add_done_callback(lambda _: self.ended.set())
        version = self._wire.server_properties.get("version", "")
        self.server_version = version.decode() if isinstance(version, bytes) else str(version)

    @property
    def blocked(self) -> bool:
        """Whether the broker is short of memory or disk and takes no publishes."""
        return not self._stream.unblocked.is_set()

    @property
    def stands(self) -> bool:
        """Whether neither the library nor the socket has noticed its end."""
        return not self.ended.is_set() and not self.outbox.closing

    @property
    def end_reason(self) -> str:
        """What the broker said when it closed the connection."""
        return self._stream.close_reason

    async def unblocked(self) -> None:
        """Wait until the broker takes publishes."""
        await self._stream.unblocked.wait()

    async def channel(self, *, confirms: bool) -> OpenChannel:
        """Open a channel.

        Raises:
            ChannelLost: the connection ended meanwhile.
        """
        try:
            async with speaking(_CHANNEL_TIMEOUT):
                owner = self._connection.channel(publisher_confirms=confirms)
                await owner.initialize()
                rpc = await owner.get_underlay_channel()
        except AMQPError as exc:
            raise ChannelLost(str(exc) or type(exc).__name__) from exc
        content = Channel(rpc.number, self._wire.connection_tune.frame_max or _FRAME_MAX, self.outbox)
        sinks = self._stream.sinks
        sinks[rpc.number] = content
        opened = OpenChannel(owner, rpc, content)

        def forget(_: asyncio.Future[Any]) -> None:
            if sinks.get(rpc.number) is content:
                del sinks[rpc.number]

        rpc.closing.add_done_callback(forget)
        return opened

    async def close(self) -> None:
        """End it politely."""
        self.outbox.flush()
        try:
            async with speaking(_CLOSE_TIMEOUT):
                await self._connection.close()
        except (AMQPError, ChannelLost) as exc:
            _log.debug("closing a connection to RabbitMQ: %s", exc)
            self.outbox.abort()
        self.ended.set()

    def cut(self) -> None:
        """End it as a broken wire would."""
        self.outbox.abort()
