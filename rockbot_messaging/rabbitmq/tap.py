"""Between the socket and the client library: message frames go to our channels, everything else to the library.

aio-pika and aiormq stay in charge of the connection: TLS, log-in, heartbeats, opening and closing channels, declaring.
But frame by frame they spend more on a delivery than all of our own work on it, and they end the connection when a
sender's properties do not please them. So the stream reader that they read from takes the frames that carry messages
and confirms out of the stream before they see them. It needs nothing private: aiormq lets a transport be given.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, final

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

__all__ = ["FrameSink", "Outbox", "TappedStream", "TappedTransport"]

_HEAD: Final = struct.Struct(">BHI").unpack_from
_HEAD_SIZE: Final = 7
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_LIMIT: Final = 2**16

#: The library takes a connection for dead on which it sees no frame for long, also when we took them all.
_SHOW_LIFE_SECONDS: Final = 1.0

#: Bytes.
_FAR_BEHIND: Final = 4 * 1024 * 1024

_BLOCKED: Final = b"\x00\x0a\x00\x3c"
_UNBLOCKED: Final = b"\x00\x0a\x00\x3d"
_CLOSE: Final = b"\x00\x0a\x00\x32"


class FrameSink(Protocol):
    """A channel of ours."""

    def take(self, kind: int, payload: bytes) -> bool:
        """Take one frame; False leaves it to the library."""
        ...


@final
class TappedStream(asyncio.StreamReader):
    """A stream reader that hands whole frames of registered channels to their sinks and keeps the rest readable.

    `clock` gives seconds that only grow; the loop's own by default.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] | None = None) -> None:
        super().__init__(limit=_LIMIT, loop=loop)
        self._clock = clock or loop.time
        self._rest = b""
        self._shown_at = self._clock()
        self.sinks: dict[int, FrameSink] = {}
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.close_code = 0
        self.close_reason = ""

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # transports give bytes
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        sinks = self.sinks
        taken = False
        while size - at >= _HEAD_SIZE:
            kind, channel, length = _HEAD(data, at)
            end = at + _HEAD_SIZE + length + 1
            if end > size:
                break
            sink = sinks.get(channel)
            if sink is not None and sink.take(kind, data[at + _HEAD_SIZE : end - 1]):
                taken = True
            else:
                if channel == 0 and kind == 1:
                    self._note(data[at + _HEAD_SIZE : end - 1])
                super().feed_data(data[at:end])
            at = end
        self._rest = data[at:] if at else data
        if taken and self._clock() - self._shown_at > _SHOW_LIFE_SECONDS:
            self._shown_at = self._clock()
            super().feed_data(_HEARTBEAT)

    def feed_eof(self) -> None:
        if self._rest:
            super().feed_data(self._rest)
            self._rest = b""
        super().feed_eof()

    def _note(self, payload: bytes) -> None:
        method = payload[:4]
        if method == _BLOCKED:
            self.unblocked.clear()
        elif method == _UNBLOCKED:
            self.unblocked.set()
        elif method == _CLOSE:
            self.close_code = (payload[4] << 8) | payload[5]
            self.close_reason = payload[7 : 7 + payload[6]].decode("utf-8", "replace")


@final
class Outbox:
    """Frames of our own, written together once per turn of the event loop."""

    def __init__(self, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._parts: list[bytes] = []

    def put(self, frames: bytes) -> None:
        """Write `frames` (one or more whole frames) before the loop turns again."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(frames)

    def flush(self) -> None:
        """Write now; to be called before the library writes something that must come later."""
        if self._parts:
            if not self._writer.is_closing():
                self._writer.write(b"".join(self._parts))
            self._parts.clear()

    @property
    def far_behind(self) -> bool:
        """Whether so much is unsent that what may be lost should be lost."""
        return self._writer.transport.get_write_buffer_size() > _FAR_BEHIND

    @property
    def closing(self) -> bool:
        """Whether the socket is closed, or about to be."""
        return self._writer.is_closing()

    async def drain(self) -> None:
        """Wait while the socket is behind; its end is somebody else's to report."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def abort(self) -> None:
        """Cut the connection without a farewell."""
        self._writer.transport.abort()


@final
class TappedTransport(TransportFactory):
    """Opens one connection; `stream` and `outbox` are set once it stands."""

    stream: TappedStream
    outbox: Outbox

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context

    def abort(self) -> None:
        """Cut the connection if one was opened."""
        outbox = getattr(self, "outbox", None)
        if outbox is not None:
            outbox.abort()

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        kwargs.pop("ssl_context_provider", None)
        loop = asyncio.get_running_loop()
        stream = TappedStream(loop)
        protocol = asyncio.StreamReaderProtocol(stream, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=self._context, **kwargs
            )
        except OSError as exc:
            raise AMQPConnectionError(*exc.args) from exc
        writer = asyncio.StreamWriter(transport, protocol, stream, loop)
        self.stream = stream
        self.outbox = Outbox(writer, loop)
        return stream, writer
