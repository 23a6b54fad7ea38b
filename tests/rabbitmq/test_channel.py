"""The data path below the client library: frames in any pieces, acks in runs, deliveries in turns. No broker here."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.rabbitmq.acks import Acks
from rockbot_messaging.rabbitmq.channel import Channel, ChannelLost, ChannelRetired, Parcel, Refused, Returned
from rockbot_messaging.rabbitmq.connection import speaking
from rockbot_messaging.rabbitmq.fields import Properties, encode_properties
from rockbot_messaging.rabbitmq.handling import Handling, Item
from rockbot_messaging.rabbitmq.tap import Outbox, TappedStream
from rockbot_messaging.rabbitmq.wire import Delivery


class _Wire:
    """A stream writer that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


def _open(
    number: int = 1, frame_max: int = 131072, clock: Callable[[], float] = lambda: 0.0
) -> tuple[TappedStream, Channel, _Wire]:
    loop = asyncio.get_running_loop()
    stream, wire = TappedStream(loop, clock), _Wire()
    channel = Channel(number, frame_max, Outbox(wire, loop))
    stream.sinks[number] = channel
    return stream, channel, wire


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _deliver(tag: int, body: bytes, *, channel: int = 1, pieces: int = 1, redelivered: bool = False) -> bytes:
    method = struct.pack(">HH", 60, 60) + b"\x04ctag" + struct.pack(">QB", tag, redelivered) + b"\x02ns" + b"\x03a.b"
    frames = _frame(1, channel, method)
    frames += _frame(2, channel, struct.pack(">HHQ", 60, 0, len(body)) + encode_properties(Properties(type="t")))
    size = max(1, -(-len(body) // pieces))
    for at in range(0, len(body), size):
        frames += _frame(3, channel, body[at : at + size])
    return frames


def _method(klass: int, method: int, rest: bytes) -> bytes:
    return struct.pack(">HH", klass, method) + rest


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 3)), max_size=6),
    st.lists(st.integers(1, 30), max_size=60),
)
def test_deliveries_are_whole_however_the_stream_is_cut(bodies: list[tuple[bytes, int]], cuts: list[int]) -> None:
    async def run() -> None:
        stream, channel, _ = _open()
        got: list[Delivery] = []
        channel.receive(got.append)
        others = _frame(1, 7, b"for the library")
        data = others.join(_deliver(tag, body, pieces=pieces) for tag, (body, pieces) in enumerate(bodies, start=1))
        at = 0
        for cut in cuts:
            stream.feed_data(data[at : at + cut])
            at += cut
        stream.feed_data(data[at:])
        stream.feed_eof()
        assert [(one.tag, one.body, one.exchange, one.routing_key) for one in got] == [
            (tag, body, "ns", "a.b") for tag, (body, _) in enumerate(bodies, start=1)
        ]
        assert await stream.read() == others * max(0, len(bodies) - 1)

    asyncio.run(run())


async def test_what_is_not_ours_reaches_the_library_untouched() -> None:
    stream, _, _ = _open()
    data = (
        _frame(1, 0, b"tune")
        + _frame(1, 1, _method(60, 21, b"\x04ctag"))
        + _frame(8, 0, b"")
        + _deliver(1, b"x", channel=2)
    )
    stream.feed_data(data)
    stream.feed_data(b"AMQP\x00")
    stream.feed_eof()
    assert await stream.read() == data + b"AMQP\x00"


async def test_a_busy_connection_looks_alive_to_the_library_about_once_a_second() -> None:
    now = 0.0
    stream, channel, _ = _open(clock=lambda: now)
    channel.receive(lambda _: None)
    for tag in range(1, 22):
        stream.feed_data(_deliver(tag, b"x"))
        now += 0.25
    stream.feed_eof()
    assert await stream.read() == b"\x08\x00\x00\x00\x00\x00\x00\xce" * 4


async def test_confirms_returns_and_refusals_reach_the_publish_they_mean() -> None:
    stream, channel, _ = _open()
    parcels = [
        Parcel("ns", "a.b", encode_properties(Properties(message_id=name)), b"body", True, name) for name in "12345"
    ]
    futures = channel.publish(parcels)
    returned = _method(60, 50, struct.pack(">H", 312) + b"\x08NO_ROUTE" + b"\x02ns" + b"\x03a.b")
    stream.feed_data(_frame(1, 1, returned) + _frame(2, 1, struct.pack(">HHQ", 60, 0, 4) + parcels[1].properties))
    stream.feed_data(_frame(3, 1, b"body"))
    stream.feed_data(_frame(1, 1, _method(60, 80, struct.pack(">QB", 3, 1))))
    stream.feed_data(_frame(1, 1, _method(60, 120, struct.pack(">QB", 4, 0))))
    assert futures[0].result() is None and futures[2].result() is None
    assert isinstance(futures[1].result(), Returned)
    assert isinstance(futures[3].result(), Refused)
    assert channel.outstanding == 1
    stream.feed_data(_frame(1, 1, _method(20, 40, struct.pack(">H", 406) + b"\x03why" + b"\0\0\0\0")))
    assert isinstance(futures[4].result(), ChannelLost)
    (late,) = channel.publish(parcels[:1])
    assert str(late.result()) == "why"


async def test_a_large_body_is_cut_into_frames_and_an_empty_one_has_none() -> None:
    _, channel, wire = _open(frame_max=108)
    channel.publish([Parcel("", "q", b"\0\0", b"x" * 250, False, "1"), Parcel("", "q", b"\0\0", b"", False, "2")])
    channel.flush()
    kinds, at = [], 0
    while at < len(wire.written):
        kind, _, length = struct.unpack_from(">BHI", wire.written, at)
        kinds.append((kind, length if kind == 3 else None))
        at += 8 + length
    assert kinds == [(1, None), (2, None), (3, 100), (3, 100), (3, 50), (1, None), (2, None)]


class _Broker:
    """Reads settlements as RabbitMQ does, and objects where it would."""

    def __init__(self, delivered: int) -> None:
        self.unsettled = set(range(1, delivered + 1))
        self.acked: set[int] = set()
        self.returned: list[int] = []

    def read(self, wire: _Wire) -> None:
        for at in range(0, len(wire.written), 21):
            _, _, _, _, method, tag, bits, _ = struct.unpack_from(">BHIHHQBB", wire.written, at)
            assert tag in self.unsettled, f"unknown delivery tag {tag}: RabbitMQ would close the channel"
            tags = {one for one in self.unsettled if one <= tag} if bits & 1 else {tag}
            self.unsettled -= tags
            if method == 80:
                self.acked |= tags
            else:
                self.returned.append(tag)
        wire.written = b""


@given(st.data(), st.integers(1, 30), st.integers(1, 10))
def test_every_delivery_is_settled_once_and_as_told(data: st.DataObject, count: int, batch: int) -> None:
    order = data.draw(st.permutations(range(1, count + 1)))
    handed_back = data.draw(st.sets(st.integers(1, count)))
    flush_after = data.draw(st.sets(st.integers(1, count)))

    async def run() -> None:
        _, channel, wire = _open()
        acks, broker = Acks(channel, batch=batch), _Broker(count)
        for tag in order:
            if tag in handed_back:
                acks.hand_back(tag)
            else:
                acks.ack(tag)
            if tag in flush_after:
                acks.flush()
            channel.flush()
            broker.read(wire)
        acks.flush()
        channel.flush()
        broker.read(wire)
        assert not broker.unsettled
        assert broker.acked == set(range(1, count + 1)) - handed_back
        assert broker.returned == [tag for tag in order if tag in handed_back]

    asyncio.run(run())


async def test_a_run_of_acks_is_one_frame() -> None:
    _, channel, wire = _open()
    acks = Acks(channel, batch=25)
    for tag in range(1, 26):
        acks.ack(tag)
    channel.flush()
    assert len(wire.written) == 21


def _item(tag: int, *, redelivered: bool = False) -> Item:
    _, channel, _ = _open()
    return Item(
        Delivery(tag, "", "", b"", b"", redelivered=redelivered), channel, Acks(channel, batch=1), alone=redelivered
    )


@pytest.mark.parametrize("parallelism", [1, 3])
async def test_handling_keeps_order_limit_and_loneliness(parallelism: int) -> None:
    begun: list[int] = []
    together: list[set[int]] = []
    running: set[int] = set()
    lonely = {4, 5}

    async def work(item: Item) -> None:
        tag = item.delivery.tag
        running.add(tag)
        begun.append(tag)
        together.append(set(running))
        if tag % 2:
            await asyncio.sleep(0)
        running.discard(tag)

    idle = asyncio.Event()
    handling = Handling(work, parallelism, on_idle=lambda: idle.set() if len(begun) == 9 else None)
    for tag in range(1, 10):
        handling.offer(_item(tag, redelivered=tag in lonely))
    async with asyncio.timeout(60):
        await idle.wait()
    assert begun == list(range(1, 10))
    assert max(len(one) for one in together) <= parallelism
    assert all(one == {tag} for tag in lonely for one in together if tag in one)


@pytest.mark.parametrize("lonely", [1, 2])
async def test_after_a_lonely_delivery_the_others_run_side_by_side_again(lonely: int) -> None:
    running: set[int] = set()
    full, go_on = asyncio.Event(), asyncio.Event()

    async def work(item: Item) -> None:
        if item.delivery.redelivered:
            await asyncio.sleep(0)
            return
        running.add(item.delivery.tag)
        if len(running) == 3:
            full.set()
        await go_on.wait()

    handling = Handling(work, 3, on_idle=lambda: None)
    for tag in range(1, 4 + lonely):
        handling.offer(_item(tag, redelivered=tag <= lonely))
    async with asyncio.timeout(60):
        await full.wait()
    go_on.set()
    await handling.settled(5)


async def test_a_delivery_in_hand_for_long_costs_its_neighbours_nothing() -> None:
    _, channel, wire = _open()
    acks, broker = Acks(channel, batch=25), _Broker(5001)
    for tag in range(2, 5002):
        acks.ack(tag)
    assert len(acks._gaps) == 1
    acks.ack(1)
    acks.flush()
    channel.flush()
    broker.read(wire)
    assert not broker.unsettled and broker.acked == set(range(1, 5002))


async def test_who_waits_for_the_last_confirm_takes_no_turn_of_those_who_wait_for_room() -> None:
    _, channel, _ = _open()
    channel.publish([Parcel("ns", "a.b", b"", b"", True, str(number)) for number in range(3)])
    idle, room = asyncio.create_task(channel.idle()), asyncio.create_task(channel.room(3))
    await asyncio.sleep(0)
    channel.take(1, struct.pack(">HHQB", 60, 80, 1, 0))
    await room
    assert not idle.done()
    channel.take(1, struct.pack(">HHQB", 60, 80, 3, 1))
    await idle
    await channel.idle()


async def test_who_waits_for_the_last_confirm_hears_of_the_end_of_the_channel() -> None:
    _, channel, _ = _open()
    (publish,) = channel.publish([Parcel("ns", "a.b", b"", b"", True, "1")])
    idle = asyncio.create_task(channel.idle())
    await asyncio.sleep(0)
    channel.fail(ChannelRetired("exchanged"))
    await idle
    assert isinstance(publish.result(), ChannelRetired)


async def test_a_second_settlement_is_not_sent() -> None:
    _, channel, wire = _open()
    acks, broker = Acks(channel, batch=1), _Broker(3)
    acks.ack(2)
    acks.hand_back(2)
    acks.ack(1)
    acks.ack(1)
    acks.hand_back(3)
    acks.ack(3)
    channel.flush()
    broker.read(wire)
    assert (broker.acked, broker.returned) == ({1, 2}, [3])


async def test_headers_that_no_frame_of_the_broker_holds_are_refused_and_not_sent() -> None:
    _, channel, wire = _open(frame_max=4096)
    large = Parcel("ns", "a.b", bytes(4096 - 19), b"", True, "1")
    fitting = Parcel("ns", "a.b", bytes(4096 - 20), b"", True, "2")
    refused, waiting = channel.publish([large, fitting])
    channel.publish_lossy(large)
    channel.flush()
    assert isinstance(refused.result(), Refused) and not waiting.done()
    sizes, at = [], 0
    while at < len(wire.written):
        _, _, length = struct.unpack_from(">BHI", wire.written, at)
        sizes.append(8 + length)
        at += 8 + length
    assert max(sizes) == 4096 and len(sizes) == 2


async def test_a_call_cancelled_by_the_library_is_the_end_of_the_channel_and_no_cancellation() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.cancel()
    with pytest.raises(ChannelLost):
        async with speaking(5):
            await answer


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    async def call() -> None:
        async with speaking(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ChannelLost, match="did not answer"):
        async with speaking(0):
            await asyncio.Event().wait()


async def test_a_confirm_wakes_one_of_those_that_wait_for_room_and_an_end_wakes_all() -> None:
    stream, channel, wire = _open()
    wire.drain = _nothing  # type: ignore[attr-defined]
    channel.publish([Parcel("ns", "a.b", b"\0\0", b"", True, name) for name in "12"])
    tasks = [asyncio.create_task(channel.room(2)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    stream.feed_data(_frame(1, 1, _method(60, 80, struct.pack(">QB", 1, 0))))
    assert [turn.done() for turn in channel._queued] == [False] * 3
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    channel.publish([Parcel("ns", "a.b", b"\0\0", b"", True, "3")])
    for _ in range(3):
        await asyncio.sleep(0)
    assert tasks[0].cancelled() and tasks[1].done() and not any(task.done() for task in tasks[2:])
    channel.fail(ChannelLost("over"))
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks[1:])


async def _nothing() -> None:
    pass
