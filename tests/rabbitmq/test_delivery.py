"""Delivery on a real broker: who is alone after an accident, who is told, and what back-pressure does to publishers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Ack, DeadLetter, Door, MessageEnvelope, Retry, RetryPolicy, Verdict, WorkSubscription
from rockbot_messaging.errors import NotConfirmed
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.rabbitmq.fields import Properties, encode_properties
from rockbot_messaging.rabbitmq.handling import GivenUp
from rockbot_messaging.rabbitmq.pausing import Pauses
from rockbot_messaging.rabbitmq.wire import Delivery
from rockbot_messaging.retries import Immediate
from rockbot_messaging.settlement import Bury, Delay
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


# -- after an accident


@pytest.mark.rabbitmq
async def test_after_a_cut_only_what_was_begun_is_handled_alone(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    begun: set[str] = set()
    running: set[str] = set()
    beside: list[tuple[str, int]] = []
    cut, pair = asyncio.Event(), asyncio.Event()

    async def handle(envelope: MessageEnvelope) -> Verdict:
        if not envelope.redelivered:
            begun.add(envelope.message_id)
            await cut.wait()
            return Ack()
        running.add(envelope.message_id)
        beside.append((envelope.message_id, len(running)))
        if len(running) == 2:
            pair.set()
        if envelope.message_id not in begun:
            await pair.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        beside.append((envelope.message_id, len(running)))
        running.discard(envelope.message_id)
        return Ack()

    work = WorkSubscription(name="work", patterns=("job",), prefetch=10, concurrency=2)
    consumption = await bus.subscriber.subscribe(work, handle)
    await bus.publisher.publish_many([message("job") for _ in range(10)])
    await _until(lambda: len(begun) == 2 and len(consumption._handling._ready) == 8)
    bus.cut()
    await _until(lambda: consumption._channel is not None and consumption._channel.content.lost is not None)
    cut.set()
    await _until(lambda: len({one for one, _ in beside}) == 10 and not running)
    assert {count for one, count in beside if one in begun} == {1}
    assert max(count for one, count in beside if one not in begun) == 2
    assert consumption._given_up._returns == {}


def _returned(body: bytes, count: int | None) -> Delivery:
    headers = {"colour": "red"} | ({} if count is None else {"x-delivery-count": count})
    raw = encode_properties(Properties(message_id="m-1", headers=headers))
    return Delivery(1, "ns", "job", raw, body, redelivered=count is not None)


def test_what_was_given_up_is_known_again_once_and_only_if_nobody_else_had_it() -> None:
    given_up = GivenUp()
    assert not given_up.comes_back(_returned(b"a", 1))
    given_up.note(_returned(b"a", None))
    assert not given_up.comes_back(_returned(b"b", 1))
    assert given_up.comes_back(_returned(b"a", 1))
    assert not given_up.comes_back(_returned(b"a", 1))
    # Somebody else took it meanwhile and did not settle it either.
    given_up.note(_returned(b"a", 3))
    assert not given_up.comes_back(_returned(b"a", 5))
    for number in range(5000):
        given_up.note(_returned(str(number).encode(), None))
    assert len(given_up._returns) <= 2000


# -- observers


class _Observer:
    def __init__(self) -> None:
        self.told: list[tuple[str, Delay | Bury]] = []

    def carried_out(self, subscription: str, outcome: Delay | Bury) -> None:
        self.told.append((subscription, outcome))
        raise RuntimeError("an observer with a bug")


@pytest.mark.rabbitmq
async def test_an_observer_is_told_what_was_carried_out_and_harms_nothing(
    harness: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    observer = _Observer()
    bus = await harness.connect(observer=observer)
    plans = {
        "walks": [Retry(after=1.2, reason="two steps of a second")],
        "dies": [ValueError("at once"), DeadLetter(reason="enough")],
        "fine": [],
    }
    worker = Recorder(lambda one: next(iter(plans[one.message_id][one.attempt - 1 :]), Ack()))
    retry = RetryPolicy(backoff=Immediate())
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=retry), worker)
    await bus.publisher.publish_many([message("job", message_id=name) for name in plans])
    await worker.wait_finished(5)
    await _until(lambda: len(observer.told) >= 3)
    assert {name for name, _ in observer.told} == {"work"}
    told = {name: [one for _, one in observer.told if one.envelope.message_id == name] for name in plans}
    assert [one.step for one in told["walks"] if isinstance(one, Delay)] == [1]
    assert [type(one) for one in told["dies"]] == [Delay, Bury]
    assert len(observer.told) == 3
    with caplog.at_level(logging.ERROR):
        assert "an observer of work failed" in caplog.text
    assert bus.health().idle_seconds == {}


@pytest.mark.rabbitmq
async def test_a_history_of_retries_does_not_make_headers_too_large(harness: RabbitHarness) -> None:
    bus = await harness.connect(max_header_bytes=4096)
    worker = Recorder(lambda one: [ValueError("ü" * 1000), Retry(after=1), Ack()][min(one.attempt // 3, 2)])
    retry = RetryPolicy(max_attempts=9, backoff=Immediate())
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=retry), worker)
    await bus.publisher.publish(message("job", headers={"large": "x" * 3700}))
    await worker.wait_finished(6)
    last = worker.envelopes[-1]
    assert (last.attempt, len(last.history), dict(last.headers)) == (6, 5, {"large": "x" * 3700})


@pytest.mark.rabbitmq
async def test_a_letter_tells_the_first_and_the_last_attempts_within_its_budget(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder(lambda one: ValueError(f"failure {one.attempt}: " + "ü" * 40_000))
    retry = RetryPolicy(max_attempts=30, backoff=Immediate())
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=retry), worker)
    await bus.publisher.publish(message("job"))
    (letter,) = await buried(bus, "work", 1)
    attempts = [line.split()[2] for line in letter.failure.history if " attempt " in line]
    assert attempts == [str(number) for number in (*range(1, 11), *range(21, 31))]
    assert letter.failure.history[10] == "... 10 more"
    assert "failure 30: " in letter.failure.traceback
    channel = await harness.stranger()
    raw = await (await channel.get_queue(f"{harness.namespace}.work.dlq", ensure=False)).get()
    assert raw is not None
    told = {name: str(value) for name, value in raw.headers.items() if name.startswith("rockbot-failure-")}
    assert 8_000 < sum(len(name) + len(value.encode()) for name, value in told.items()) <= 32 * 1024
    await raw.nack(requeue=True)


# -- back-pressure


@pytest.mark.rabbitmq
@pytest.mark.parametrize("batched", [True, False])
async def test_no_more_publishes_than_the_window_wait_for_their_confirms(harness: RabbitHarness, batched: bool) -> None:
    bus = await harness.connect(confirm_window=7)
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), worker)
    opened = bus._sender._open
    assert opened is not None
    channel, most, done = opened[1].content, 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, channel.outstanding)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    sent = [message("job") for _ in range(60)]
    if batched:
        await bus.publisher.publish_many(sent)
    else:
        await asyncio.gather(*(bus.publisher.publish(one) for one in sent))
    done.set()
    await watching
    await worker.wait_for(60)
    assert 1 < most <= 7
    assert sorted(worker.ids) == sorted(one.message_id for one in sent)


async def _blocked(node: RabbitNode, mark: str) -> None:
    await asyncio.to_thread(node.allow_memory, mark)


@pytest.mark.rabbitmq
async def test_a_broker_that_blocks_in_the_middle_loses_and_doubles_nothing(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    bus = await harness.connect(confirm_window=50)
    seen: list[str] = []

    async def handle(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope.message_id)
        return Ack()

    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), handle)
    sent: list[MessageEnvelope] = []
    enough = asyncio.Event()

    async def publish() -> None:
        while not enough.is_set():
            batch = [message("job") for _ in range(120)]
            sent.extend(batch)
            await bus.publisher.publish_many(batch)

    publishing = asyncio.create_task(publish())
    await _until(lambda: len(seen) > 10)
    try:
        await _blocked(rabbit_node, "1MB")
        await _until(lambda: "blocked" in bus.health().detail)
        enough.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not publishing.done()
    finally:
        await _blocked(rabbit_node, "512MB")
    async with asyncio.timeout(60):
        await publishing
    await _until(lambda: len(seen) >= len(sent))
    assert sorted(seen) == sorted(one.message_id for one in sent)
    await harness.close()


async def _published(bus: RabbitBus, one: MessageEnvelope) -> None:
    """Publish until it is confirmed in time, which a busy machine may need more than one try for."""
    async with asyncio.timeout(60):
        while True:
            try:
                await bus.publisher.publish(one)
                return
            except NotConfirmed:
                continue


@pytest.mark.rabbitmq
async def test_the_publish_that_meets_a_blocking_broker_says_so(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    await (await harness.connect()).declare([WorkSubscription(name="work", patterns=("job",))])
    try:
        await _blocked(rabbit_node, "1MB")
        for patience in (1, 5, 25):  # a busy broker may tell later
            bus = await harness.connect(connect_timeout=60, confirm_timeout=patience)
            with pytest.raises(NotConfirmed) as caught:
                await bus.publisher.publish(message("job"))
            if "blocks publishers" in str(caught.value):
                break
    finally:
        await _blocked(rabbit_node, "512MB")
    assert f"no confirm within {patience} s: RabbitMQ at 127.0.0.1:{rabbit_node.port}" in str(caught.value)
    assert "blocks publishers (short of memory or disk); it may or may not be stored" in str(caught.value)
    await harness.close()


@pytest.mark.rabbitmq
async def test_a_broker_that_blocks_for_too_long_is_an_error_that_says_so(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    bus = await harness.connect(confirm_timeout=1)
    await bus.declare([WorkSubscription(name="work", patterns=("job",))])
    await _published(bus, message("job"))
    try:
        await _blocked(rabbit_node, "1MB")
        # The broker says that it blocks when it is written to.
        with pytest.raises(NotConfirmed):
            await bus.publisher.publish(message("job"))
        await _until(lambda: "blocked" in bus.health().detail)
        late = message("job")
        with pytest.raises(NotConfirmed, match=r"blocks publishers .* within 1 s; nothing was sent"):
            await bus.publisher.publish(late, door=Door.PUBLIC)
    finally:
        await _blocked(rabbit_node, "512MB")
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), worker)
    last = message("job")
    await _published(bus, last)
    await _until(lambda: last.message_id in worker.ids)
    assert late.message_id not in worker.ids
    await harness.close()


@pytest.mark.rabbitmq
@pytest.mark.crash
async def test_what_was_in_flight_when_the_broker_died_is_stored_when_it_is_back() -> None:
    node = RabbitNode()
    await asyncio.to_thread(node.start)
    try:
        harness = RabbitHarness(node.url)
        bus = await harness.connect(confirm_timeout=100)
        worker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), worker)
        await bus.publisher.publish(message("job"))
        await asyncio.to_thread(node.remember_queues)
        await _blocked(node, "1MB")
        sent = message("job")
        # Written, and unconfirmed for as long as the broker blocks; then the broker is gone for longer than a publish that
        # was never written would wait.
        publishing = asyncio.create_task(bus.publisher.publish(sent))
        await _until(lambda: "blocked" in bus.health().detail)
        await asyncio.to_thread(node.kill)
        await _until(lambda: not bus.health().connected)
        await asyncio.to_thread(node.start)
        await publishing
        await _until(lambda: sent.message_id in worker.ids)
        await harness.close()
    finally:
        await asyncio.to_thread(node.stop)


# -- coming back


def test_pauses_grow_to_their_bound_and_spread_upwards() -> None:
    pauses = Pauses(0.5, 3, lambda: 0.0)
    assert [pauses.next() for _ in range(5)] == [0.5, 1, 2, 3, 3]
    pauses.reset()
    assert pauses.next() == 0.5
    late = Pauses(0.5, 3, lambda: 1.0)
    assert [late.next() for _ in range(4)] == [0.75, 1.5, 3, 4.5]
    assert Pauses(9, 3, lambda: 0.0).next() == 9
