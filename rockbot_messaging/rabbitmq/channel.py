"""One AMQP channel as we use it: deliveries in, settlements and confirmed publishes out, without a task per message.

The library opened it and will close it; between the two, frames that carry messages pass here (AMQP 0-9-1, section
2.3.5 for the framing, class `basic` for the methods, RabbitMQ's confirm extension for `basic.ack` from the server).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, final

from rockbot_messaging.rabbitmq.fields import decode_properties
from rockbot_messaging.rabbitmq.tap import Outbox
from rockbot_messaging.rabbitmq.wire import Delivery

__all__ = ["Channel", "ChannelLost", "ChannelRetired", "Nacked", "Outcome", "Parcel", "Refused", "Returned"]

_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER, _GET_OK, _GET_EMPTY, _RETURN, _ACK, _NACK = (
    struct.pack(">HH", 60, method) for method in (60, 71, 72, 50, 80, 120)
)
_CHANNEL_CLOSE: Final = struct.pack(">HH", 20, 40)

_U32: Final = struct.Struct(">I").unpack_from
_U64: Final = struct.Struct(">Q").unpack_from
_SETTLE: Final = struct.Struct(">BHIHHQBB").pack
_FRAME: Final = struct.Struct(">BHI").pack
_PUBLISH: Final = struct.pack(">HHH", 60, 40, 0)
_CONTENT: Final = struct.Struct(">HHQ").pack
_END: Final = b"\xce"
#: Bytes of a header frame beside the property list.
_HEADER_OVERHEAD: Final = 20


class Returned(Exception):
    """Nobody receives the message; the broker gave it back."""


class Refused(Exception):
    """The broker refused the message (a full queue, a lost replica)."""


class Nacked(Refused):
    """The broker did not store it now; it may the next time, as when the member that leads the queue has just died."""


class ChannelLost(Exception):
    """The channel or its connection ended; what was not confirmed may or may not be stored."""


class ChannelRetired(ChannelLost):
    """We ended the channel ourselves, for another one."""


class Parcel(NamedTuple):
    """A message ready for the wire."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    mandatory: bool
    message_id: str


#: None is a confirm; an exception as a *result* needs nobody to look at it.
Outcome = Exception | None


@final
class Channel:
    """Content frames of one channel number."""

    def __init__(self, number: int, frame_max: int, outbox: Outbox) -> None:
        self._number = number
        self._frame_max = frame_max
        self._chunk = frame_max - 8
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._on_delivery: Callable[[Delivery], None] | None = None
        self._method = b""
        self._properties = b""
        self._missing = -1
        self._parts: list[bytes] = []
        self._gets: deque[asyncio.Future[Delivery | None]] = deque()
        self._published = 0
        self._waiting: dict[int, tuple[Parcel, asyncio.Future[Outcome]]] = {}
        self._queued: deque[asyncio.Future[None]] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._limit = 0
        #: Messages that lay behind the last one that `get` brought.
        self.left_behind = 0
        self.lost: ChannelLost | None = None

    # -- frames in -------------------------------------------------------------------------------------------------

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame that carries a message, a reply to `get` or a confirm; leave all others to the library."""
        if kind == _METHOD:
            method = payload[:4]
            if method in (_DELIVER, _GET_OK, _RETURN):
                self._method = payload
                return True
            if method in (_ACK, _NACK):
                self._confirmed(_U64(payload, 4)[0], method == _ACK, multiple=bool(payload[12] & 1))
                return True
            if method == _GET_EMPTY:
                self._answer(None)
                return True
            if method == _CHANNEL_CLOSE:
                self.fail(ChannelLost(payload[7 : 7 + payload[6]].decode("utf-8", "replace")))
            return False
        if kind == _HEADER and self._method:
            self._missing = _U64(payload, 4)[0]
            self._properties = payload[12:]
            if not self._missing:
                self._complete(b"")
            return True
        if kind == _BODY and self._method:
            self._missing -= len(payload)
            if self._missing > 0:
                self._parts.append(payload)
            elif self._parts:
                self._parts.append(payload)
                self._complete(b"".join(self._parts))
            else:
                self._complete(payload)
            return True
        return False

    def _complete(self, body: bytes) -> None:
        payload, properties = self._method, self._properties
        self._method = self._properties = b""
        if self._parts:
            self._parts = []
        method = payload[:4]
        if method == _RETURN:
            self._returned(payload, properties)
            return
        # Deliver has the consumer's tag first, then both are alike.
        at = 5 + payload[4] if method == _DELIVER else 4
        tag = _U64(payload, at)[0]
        redelivered = payload[at + 8] & 1 == 1
        exchange, at = _short(payload, at + 9)
        routing_key, at = _short(payload, at)
        delivery = Delivery(tag, exchange, routing_key, properties, body, redelivered=redelivered)
        if method == _GET_OK:
            self.left_behind = _U32(payload, at)[0]
            self._answer(delivery)
        elif self._on_delivery is not None:
            self._on_delivery(delivery)

    def fail(self, reason: ChannelLost) -> None:
        """The channel is gone: everything that waits for it is told."""
        if self.lost is not None:
            return
        self.lost = reason
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            _resolve(future, reason)
        while self._gets:
            get = self._gets.popleft()
            if not get.done():
                get.set_exception(reason)
        self._wake(len(self._queued))
        self._rest()

    # -- consuming -------------------------------------------------------------------------------------------------

    def receive(self, on_delivery: Callable[[Delivery], None]) -> None:
        """Call `on_delivery` for every delivery to a consumer of this channel."""
        self._on_delivery = on_delivery

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Forget a delivery; with `multiple`, every one up to it that is not settled yet."""
        self._put(_SETTLE(_METHOD, self._number, 13, 60, 80, tag, multiple, 0xCE))

    def hand_back(self, tag: int, *, multiple: bool = False) -> None:
        """Put a delivery back to where it came from (`basic.nack` with requeue)."""
        self._put(_SETTLE(_METHOD, self._number, 13, 60, 120, tag, multiple | 2, 0xCE))

    def get(self, queue: str, count: int) -> list[asyncio.Future[Delivery | None]]:
        """Ask for up to `count` messages of `queue` in one write; None answers where the queue has no more.

        Raises (from the futures):
            ChannelLost: the channel ended first.
        """
        name = queue.encode()
        method = struct.pack(">HHH", 60, 70, 0) + bytes((len(name),)) + name + b"\x00"
        frame = _FRAME(_METHOD, self._number, len(method)) + method + _END
        futures: list[asyncio.Future[Delivery | None]] = [self._loop.create_future() for _ in range(count)]
        if self.lost is not None:
            raise self.lost
        self._gets.extend(futures)
        self._put(frame * count)
        return futures

    def _answer(self, delivery: Delivery | None) -> None:
        if self._gets:
            future = self._gets.popleft()
            if not future.done():
                future.set_result(delivery)

    # -- publishing ------------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Publishes that wait for their confirm."""
        return len(self._waiting)

    async def room(self, limit: int) -> None:
        """Wait until fewer than `limit` publishes are outstanding and the socket keeps up."""
        self._limit = limit
        first = True
        while len(self._waiting) >= limit and self.lost is None:
            turn: asyncio.Future[None] = self._loop.create_future()
            # Whoever was overtaken keeps its place.
            self._queued.append(turn) if first else self._queued.appendleft(turn)
            first = False
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._wake(1)
                raise
        await self._outbox.drain()

    async def idle(self) -> None:
        """Wait until no publish is outstanding. One may wait at a time; it takes no turn of those who wait for room."""
        if self._waiting:
            self._idle = self._loop.create_future()
            await self._idle

    def _wake(self, count: int) -> None:
        """Let so many of those that wait for room look again; waking all of them each time would cost the square."""
        while count > 0 and self._queued:
            turn = self._queued.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    def _rest(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def behind(self) -> bool:
        """Whether so many bytes are unsent that more of them would only fill memory."""
        return self._outbox.far_behind

    def publish(self, parcels: Iterable[Parcel]) -> list[asyncio.Future[Outcome]]:
        """Publish in one write; each future's result is None once confirmed, else what happened instead."""
        frames: list[bytes] = []
        futures: list[asyncio.Future[Outcome]] = []
        for parcel in parcels:
            future: asyncio.Future[Outcome] = self._loop.create_future()
            futures.append(future)
            if self.lost is not None:
                future.set_result(self.lost)
                continue
            if len(parcel.properties) + _HEADER_OVERHEAD > self._frame_max:
                # The broker would end the whole connection, and again at every repetition.
                future.set_result(
                    Refused(
                        f"its headers have {len(parcel.properties)} bytes, a frame of this broker has room for "
                        f"{self._frame_max - _HEADER_OVERHEAD}"
                    )
                )
                continue
            self._published += 1
            self._waiting[self._published] = (parcel, future)
            self._frames(parcel, frames)
        if frames:
            self._put(b"".join(frames))
        return futures

    def publish_lossy(self, parcel: Parcel) -> None:
        """Publish and forget; its confirm is counted and ignored."""
        if self.lost is None and len(parcel.properties) + _HEADER_OVERHEAD <= self._frame_max:
            self._published += 1
            frames: list[bytes] = []
            self._frames(parcel, frames)
            self._put(b"".join(frames))

    def _frames(self, parcel: Parcel, frames: list[bytes]) -> None:
        number, body = self._number, parcel.body
        exchange, key = parcel.exchange.encode(), parcel.routing_key.encode()
        method = b"".join(
            (
                _PUBLISH,
                bytes((len(exchange),)),
                exchange,
                bytes((len(key),)),
                key,
                b"\x01" if parcel.mandatory else b"\0",
            )
        )
        properties = parcel.properties
        frames += (
            _FRAME(_METHOD, number, len(method)),
            method,
            _END,
            _FRAME(_HEADER, number, 12 + len(properties)),
            _CONTENT(60, 0, len(body)),
            properties,
            _END,
        )
        if len(body) <= self._chunk:
            if body:
                frames += (_FRAME(_BODY, number, len(body)), body, _END)
            return
        for at in range(0, len(body), self._chunk):
            part = body[at : at + self._chunk]
            frames += (_FRAME(_BODY, number, len(part)), part, _END)

    def _confirmed(self, tag: int, positive: bool, *, multiple: bool) -> None:
        outcome = None if positive else Nacked("the broker refused to store it")
        if multiple:
            # Numbers only grow, so the dictionary is in order and the first ones are the ones meant.
            tags = []
            for number in self._waiting:
                if number > tag:
                    break
                tags.append(number)
        else:
            tags = [tag]
        for number in tags:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                _resolve(waiting[1], outcome)
        self._wake(max(len(tags), self._limit - len(self._waiting)))
        if not self._waiting:
            self._rest()

    def _returned(self, payload: bytes, properties: bytes) -> None:
        _, at = _short(payload, 6)
        exchange, at = _short(payload, at)
        routing_key, _ = _short(payload, at)
        returned = (exchange, routing_key, decode_properties(properties).message_id)
        # The confirm of a returned message follows at once and finds its future done.
        for parcel, future in self._waiting.values():
            if (parcel.exchange, parcel.routing_key, parcel.message_id) == returned and not future.done():
                future.set_result(Returned(routing_key))
                return

    def _put(self, frames: bytes) -> None:
        if self.lost is None:
            self._outbox.put(frames)

    def flush(self) -> None:
        """Write what is waiting, so that what the library writes next comes after it."""
        self._outbox.flush()


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "ignore"), end
