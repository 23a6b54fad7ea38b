"""The frame reader takes the same out of a stream however the stream is cut, whatever else flows in it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot_messaging.rabbitmq.channel import Channel, Parcel
from rockbot_messaging.rabbitmq.fields import Properties, decode_properties, encode_properties
from rockbot_messaging.rabbitmq.tap import Outbox, TappedStream
from rockbot_messaging.rabbitmq.wire import Delivery

_OURS, _LIBRARYS = 3, 9
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _content(method: bytes, properties: bytes, parts: Sequence[bytes], channel: int = _OURS) -> list[bytes]:
    head = struct.pack(">HHQ", 60, 0, sum(map(len, parts))) + properties
    return [_frame(1, channel, method), _frame(2, channel, head), *(_frame(3, channel, one) for one in parts)]


_SHORT = st.text(max_size=20)
_ANY_PROPERTIES = st.builds(
    Properties,
    content_type=st.none() | _SHORT,
    content_encoding=st.none() | _SHORT,
    headers=st.none() | st.dictionaries(_SHORT, st.none() | st.booleans() | st.integers(-9, 9) | _SHORT, max_size=3),
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | _SHORT,
    reply_to=st.none() | _SHORT,
    expiration=st.none() | _SHORT,
    message_id=st.none() | _SHORT,
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    type=st.none() | _SHORT,
    user_id=st.none() | _SHORT,
    app_id=st.none() | _SHORT,
    cluster_id=st.none() | _SHORT,
)
_PARTS = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), _ANY_PROPERTIES, _PARTS, st.booleans()),
        st.tuples(st.just("get"), _ANY_PROPERTIES, _PARTS, st.booleans()),
        st.tuples(st.just("empty")),
        st.tuples(st.just("return"), st.integers(1, 9), _PARTS),
        st.tuples(st.just("confirm"), st.integers(1, 9), st.booleans(), st.booleans()),
        st.tuples(st.just("library"), st.integers(0, 255), st.binary(max_size=20)),
        st.tuples(st.just("heartbeat")),
        st.tuples(st.just("half a message, then the end"), _ANY_PROPERTIES),
    ),
    max_size=12,
)


@final
@dataclass
class _Seen:
    deliveries: list[tuple[Any, ...]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    confirms: list[str] = field(default_factory=list)
    library: bytes = b""


def _bytes(events: Sequence[tuple[Any, ...]]) -> bytes:
    frames: list[bytes] = []
    for tag, event in enumerate(events, start=1):
        match event:
            case ("deliver", properties, parts, redelivered):
                method = b"\x00\x3c\x00\x3c\x03tag" + struct.pack(">QB", tag, redelivered) + b"\x02ns\x03a.b"
                frames += _content(method, encode_properties(properties), parts)
            case ("get", properties, parts, redelivered):
                method = b"\x00\x3c\x00\x47" + struct.pack(">QB", tag, redelivered) + b"\x00\x01q\x00\x00\x00\x07"
                frames += _content(method, encode_properties(properties), parts)
            case ("empty",):
                frames.append(_frame(1, _OURS, b"\x00\x3c\x00\x48\x00"))
            case ("return", number, parts):
                method = b"\x00\x3c\x00\x32\x01\x38\x08NO_ROUTE\x02ns\x03a.b"
                frames += _content(method, encode_properties(Properties(message_id=str(number))), parts)
            case ("confirm", number, positive, multiple):
                frames.append(_frame(1, _OURS, struct.pack(">HHQB", 60, 80 if positive else 120, number, multiple)))
            case ("library", kind, payload):
                frames.append(_frame(kind, _LIBRARYS, payload))
            case ("heartbeat",):
                frames.append(_HEARTBEAT)
            case (_, properties):
                method = b"\x00\x3c\x00\x3c\x03tag" + struct.pack(">QB", tag, 0) + b"\x02ns\x03a.b"
                frames += _content(method, encode_properties(properties), [b"one", b"two"])[:-1]
                frames.append(_frame(1, _OURS, b"\x00\x14\x00\x28\x01\x96\x03why\x00\x00\x00\x00"))
                break
    return b"".join(frames)


async def _read(data: bytes, cuts: Sequence[int]) -> _Seen:
    loop = asyncio.get_running_loop()
    stream = TappedStream(loop, lambda: 0.0)
    channel = Channel(_OURS, 131072, Outbox(_Wire(), loop))  # type: ignore[arg-type]  # all of a writer it needs here
    stream.sinks[_OURS] = channel
    seen = _Seen()

    def deliver(one: Delivery) -> None:
        seen.deliveries.append(
            (one.tag, one.exchange, one.routing_key, decode_properties(one.properties), one.body, one.redelivered)
        )

    channel.receive(deliver)
    parcels = [
        Parcel("ns", "a.b", encode_properties(Properties(message_id=str(n))), b"", True, str(n)) for n in range(1, 10)
    ]
    published = channel.publish(parcels)
    gets = channel.get("q", 12)
    at = 0
    for cut in cuts:
        stream.feed_data(data[at : at + cut])
        at += cut
    stream.feed_data(data[at:])
    stream.feed_eof()
    seen.library = await stream.read()
    for get in gets:
        if get.done():
            error = get.exception()
            answer = None if error else get.result()
            seen.answers.append(str(error) if error else answer and (answer.tag, answer.routing_key, answer.body))
    seen.confirms = [repr(one.result()) if one.done() else "waits" for one in published]
    return seen


@final
class _Wire:
    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False


@given(_EVENTS, st.lists(st.integers(0, 40), max_size=120))
@settings(max_examples=150)
def test_a_stream_means_the_same_however_it_is_cut(events: list[tuple[Any, ...]], cuts: list[int]) -> None:
    data = _bytes(events)
    whole = asyncio.run(_read(data, []))
    assert asyncio.run(_read(data, cuts)) == whole
    assert asyncio.run(_read(data, [1] * len(data))) == whole
    wanted = [
        (tag, "ns", "a.b", event[1]._replace(headers=event[1].headers or None), b"".join(event[2]), event[3])
        for tag, event in enumerate(events, start=1)
        if event[0] == "deliver"
        and not any(earlier[0] == "half a message, then the end" for earlier in events[: tag - 1])
    ]
    assert whole.deliveries == wanted
