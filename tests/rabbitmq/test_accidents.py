"""What a broker, its administrator or another program may do to a running bus: each time it is back within seconds."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Ack, MessageEnvelope, Verdict, WatchSubscription, WorkSubscription
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed, Unroutable
from rockbot_messaging.letters import DISCARDED, Discard, Failure, Fate, Letter
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.rabbitmq.policies import version_of
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import depth, message

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq, pytest.mark.crash, pytest.mark.timeout(180)]

_WORK = WorkSubscription(name="work", patterns=("job.#",), prefetch=5)
_USER, _PASSWORD = "visitor", "visitor-pw"
#: Seconds: far more than it takes, also on a busy machine, and less than any of the time limits that could be met instead.
SOON = 25.0

#: Takes every consumer away from a quorum queue, behind the backs of their channels.
_FORGET = """
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
Pid = amqqueue:get_pid(Q),
{{ok, {{_, Consumers}}, _}} = ra:local_query(Pid, fun rabbit_fifo:query_consumers/1),
Held = [{{element(2, C), element(1, C)}} || C <- maps:values(Consumers)],
[ra:process_command(Pid, rabbit_fifo:make_checkout(Id, cancel, #{{}})) || Id <- Held].
"""

#: Keeps a quorum queue from answering for a second; who asks for its counts is told 0 and 0 after a quarter of one.
_BUSY = """
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
{{Name, _}} = amqqueue:get_pid(Q),
timer:apply_after(1000, sys, resume, [whereis(Name)]),
sys:suspend(whereis(Name)).
"""


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


async def _buried(bus: RabbitBus, count: int) -> list[str]:
    """The ids of so many letters, oldest first."""
    await bus.declare([_WORK])
    sent = [message("job.one") for _ in range(count)]
    failure = Failure(reason="no", queue="", topic="job.one", at_ms=1)
    for one in sent:
        await bus.dead_letters.bury("work", one, failure)
    return [one.message_id for one in sent]


@pytest.fixture
async def private(rabbit_node: RabbitNode) -> AsyncIterator[RabbitHarness]:
    harness = RabbitHarness(rabbit_node.url)
    yield harness
    await harness.close()


@pytest.fixture
async def impatient(rabbit_node: RabbitNode) -> AsyncIterator[None]:
    """The broker lets nobody keep a message for more than a second."""

    async def allow(timeout: int, tick: int) -> None:
        # It looks at what is in somebody's hands once a minute, here twice a second.
        settings = f"[{{consumer_timeout, {timeout}}}, {{channel_tick_interval, {tick}}}]"
        code = f"[application:set_env(rabbit, K, V) || {{K, V}} <- {settings}]."
        await asyncio.to_thread(rabbit_node.evaluate, code)

    await allow(1000, 500)
    yield
    await allow(1_800_000, 60_000)


@pytest.fixture
def ctl(rabbit_node: RabbitNode) -> Callable[..., Awaitable[str]]:
    async def ctl(*arguments: str) -> str:
        return await asyncio.to_thread(rabbit_node.ctl, *arguments)

    return ctl


async def _handled_again(bus: RabbitBus, worker: Recorder, what: str) -> float:
    """Publish until a message is handled; how many seconds that took, from now."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    async with asyncio.timeout(60):
        while True:
            probe = message("job.probe")
            try:
                await bus.publisher.publish(probe)
            except (Unroutable, NotConfirmed, BrokerUnreachable):
                continue
            break
        await _until(lambda: probe.message_id in worker.ids)
    await _until(lambda: bus.health().connected and not bus.health().idle_seconds)
    seconds = loop.time() - since
    print(f"\n{what}: handled again after {seconds:.2f} s")
    return seconds


async def _working(harness: RabbitHarness, **changes: object) -> tuple[RabbitBus, Recorder, str]:
    bus = await harness.connect(**changes)
    worker = Recorder()
    consumption = await bus.subscriber.subscribe(_WORK, worker)
    await bus.publisher.publish(message("job.first"))
    await worker.wait_for(1)
    return bus, worker, consumption.address


# -- what an administrator does -------------------------------------------------------------------------------------------


async def test_after_all_connections_were_closed(private: RabbitHarness, rabbit_node: RabbitNode) -> None:
    bus, worker, _ = await _working(private)
    await asyncio.to_thread(rabbit_node.close_connections)
    assert await _handled_again(bus, worker, "connections closed") < SOON


async def test_after_the_application_was_stopped_and_started(
    private: RabbitHarness, rabbit_node: RabbitNode, ctl: Callable[..., Awaitable[str]]
) -> None:
    bus, worker, _ = await _working(private, confirm_timeout=60)
    await asyncio.to_thread(rabbit_node.remember_queues)
    await ctl("stop_app")
    await _until(lambda: not bus.health().connected)
    await ctl("start_app")
    assert await _handled_again(bus, worker, "application stopped and started") < SOON


async def test_after_an_alarm_that_was_on_while_it_connected_again(
    private: RabbitHarness, rabbit_node: RabbitNode
) -> None:
    bus, worker, _ = await _working(private)
    await asyncio.to_thread(rabbit_node.allow_memory, "1MB")
    try:
        closing = asyncio.create_task(asyncio.to_thread(rabbit_node.close_connections))
        await _until(lambda: not bus.health().connected)
        await closing
        await _until(lambda: bus.health().connected and not bus.health().idle_seconds)
        waiting = asyncio.create_task(bus.publisher.publish(message("job.waits")))
        await _until(lambda: "blocked" in bus.health().detail)
        assert not waiting.done()
    finally:
        await asyncio.to_thread(rabbit_node.allow_memory)
    assert await _handled_again(bus, worker, "alarm over") < SOON
    await waiting
    await worker.wait_for(3)


async def test_after_permissions_were_taken_away_and_given_back(
    private: RabbitHarness,
    rabbit_node: RabbitNode,
    ctl: Callable[..., Awaitable[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "rockbot_messaging.rabbitmq")
    await asyncio.to_thread(rabbit_node.add_user, _USER, _PASSWORD, configure=".*", write=".*", read=".*")
    visitor = RabbitHarness(rabbit_node.url_of(_USER, _PASSWORD))
    try:
        bus, worker, queue = await _working(visitor)
        await asyncio.to_thread(rabbit_node.permit, _USER, configure=".*", write=".*", read="^$")
        await asyncio.to_thread(rabbit_node.close_connections)
        await _until(lambda: "ACCESS_REFUSED" in caplog.text)
        refused = [record.getMessage() for record in caplog.records if "ACCESS_REFUSED" in record.getMessage()]
        assert f"cannot consume {queue}: " in refused[0]
        assert _PASSWORD not in caplog.text
        assert bus.health().idle_seconds
        await asyncio.to_thread(rabbit_node.permit, _USER, configure=".*", write=".*", read=".*")
        assert await _handled_again(bus, worker, "permissions given back") < SOON
    finally:
        await visitor.close()
        await ctl("delete_user", _USER)


async def test_after_its_virtual_host_was_deleted_and_made_again(
    rabbit_node: RabbitNode, ctl: Callable[..., Awaitable[str]]
) -> None:
    async def make() -> None:
        await ctl("add_vhost", "elsewhere")
        await ctl("set_permissions", "-p", "elsewhere", "guest", ".*", ".*", ".*")

    await make()
    harness = RabbitHarness(f"{rabbit_node.url}elsewhere")
    try:
        bus, worker, _ = await _working(harness)
        await ctl("delete_vhost", "elsewhere")
        await _until(lambda: "elsewhere" in bus.health().detail and not bus.health().connected)
        await make()
        assert await _handled_again(bus, worker, "virtual host made again") < SOON
    finally:
        await harness.close()
        await ctl("delete_vhost", "elsewhere")


# -- what happens to queues and exchanges ---------------------------------------------------------------------------------


async def test_after_its_queue_was_deleted(private: RabbitHarness) -> None:
    bus, worker, queue = await _working(private)
    await (await private.stranger()).queue_delete(queue)
    assert await _handled_again(bus, worker, "queue deleted") < SOON


async def test_after_its_queue_was_deleted_and_declared_by_somebody_else(private: RabbitHarness) -> None:
    # The broker moves its consumer to the new queue and hides the first message there from it.
    bus, worker, queue = await _working(private, quiet_check=1)
    other = await private.connect()
    await (await private.stranger()).queue_delete(queue)
    await other.declare([_WORK])
    assert await _handled_again(bus, worker, "queue deleted and declared again") < SOON


async def test_what_a_full_queue_refuses_is_offered_again_until_there_is_room(
    private: RabbitHarness, ctl: Callable[..., Awaitable[str]]
) -> None:
    bus = await private.connect()
    await bus.declare([_WORK])
    policy = f"{private.namespace}-small"
    await ctl("set_policy", policy, rf"^{private.namespace}\.work$", '{"max-length": 2}', "--apply-to", "queues")
    try:
        batches = [[message("job.one") for _ in range(5)] for _ in range(20)]

        async def publish() -> None:
            for batch in batches:
                await bus.publisher.publish_many(batch)

        publishing = asyncio.create_task(publish())
        await asyncio.wait([publishing], timeout=1)
        assert not publishing.done(), "the queue takes no more, and nobody was told yet"
        worker = Recorder()
        await bus.subscriber.subscribe(_WORK, worker)
        await publishing
        await _until(lambda: set(worker.ids) == {one.message_id for batch in batches for one in batch})
    finally:
        await ctl("clear_policy", policy)


async def test_after_its_exchanges_were_deleted(private: RabbitHarness) -> None:
    bus, worker, _ = await _working(private)
    channel = await private.stranger()
    for name in (private.namespace, f"{private.namespace}.commands", f"{private.namespace}.lossy"):
        await channel.exchange_delete(name)
    assert await _handled_again(bus, worker, "exchanges deleted") < SOON


async def test_after_the_broker_forgot_its_consumer(
    private: RabbitHarness, rabbit_node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rockbot_messaging.rabbitmq")
    bus, worker, queue = await _working(private, quiet_check=1)
    await asyncio.to_thread(rabbit_node.evaluate, _FORGET.format(queue=queue))
    assert await _handled_again(bus, worker, "consumer forgotten") < SOON
    assert f"the consumer of {queue} is gone (1 messages wait there and none is delivered)" in caplog.text


async def test_a_quiet_consumer_of_an_empty_queue_is_left_alone(
    private: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rockbot_messaging.rabbitmq")
    bus, worker, _ = await _working(private, quiet_check=0.05)
    held = Recorder(held=True)
    await bus.subscriber.subscribe(WorkSubscription(name="slow", patterns=("slow.#",), prefetch=1), held)
    await bus.publisher.publish_many([message("slow.one"), message("slow.two")])
    await held.wait_for(1)
    watcher = Recorder()
    await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news.#",)), watcher)
    before = dict(bus.subscriber.running)
    # Long enough for many questions: as many messages go through another queue one after another.
    for number in range(200):
        await bus.publisher.publish(message("job.one"))
        await worker.wait_for(number + 2)
    held.release()
    await held.wait_for(2)
    assert bus.subscriber.running == before
    assert "is gone" not in caplog.text


# -- what goes wrong on a channel -----------------------------------------------------------------------------------------


async def test_after_a_mistaken_settlement_ended_its_channel_and_its_neighbours_come_again(
    private: RabbitHarness,
) -> None:
    bus = await private.connect()
    worker = Recorder(held=True)
    consumption = await bus.subscriber.subscribe(_WORK, worker)
    sent = [message("job.one") for _ in range(4)]
    await bus.publisher.publish_many(sent)
    await worker.wait_for(4)
    channel = consumption._channel
    assert channel is not None
    channel.content.ack(4711)
    await _until(lambda: bool(bus.health().idle_seconds))
    worker.release()
    await worker.wait_for(8)
    assert set(worker.ids[4:]) == {one.message_id for one in sent}
    assert await _handled_again(bus, worker, "channel ended by a mistake") < SOON


async def test_a_handler_that_is_longer_than_the_consumer_timeout_is_named_and_its_message_comes_again(
    private: RabbitHarness, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rockbot_messaging.rabbitmq")
    seen: list[MessageEnvelope] = []
    done: set[str] = set()
    ends = asyncio.Event()

    async def handler(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope)
        if envelope.topic == "job.long" and not envelope.redelivered:
            await ends.wait()
        done.add(envelope.message_id)
        return Ack()

    try:
        bus = await private.connect()
        consumption = await bus.subscriber.subscribe(
            WorkSubscription(name="work", patterns=("job.#",), prefetch=5, concurrency=1), handler
        )
        long, *rest = sent = [message("job.long"), *(message("job.short") for _ in range(3))]
        await bus.publisher.publish_many(sent)
        await _until(lambda: "consumer timeout" in caplog.text)
        line = next(text for text in caplog.messages if "consumer timeout" in text)
        assert re.search(rf"consumer of {consumption.address} is gone .*held its message", line)
        session = bus._inward.session_now
        assert session is not None
        # From 4.3 on the broker names no reason.
        assert version_of(session.server_version) >= (4, 3) or "(1 s)" in line
        assert "consumer_timeout" in line
        ends.set()
        await _until(lambda: {one.message_id for one in rest} <= done)
        await _until(lambda: [one.message_id for one in seen].count(long.message_id) == 2)
        print(f"\n{line}")
    finally:
        ends.set()


@pytest.mark.parametrize("patience", [3.0, 0.3])
async def test_letters_of_a_queue_that_is_too_busy_to_count_are_all_seen_in_their_order(
    private: RabbitHarness, rabbit_node: RabbitNode, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr("rockbot_messaging.rabbitmq.letter_look._PATIENCE", patience)
    bus = await private.connect()
    sent = await _buried(bus, 50)
    busy = _BUSY.format(queue=f"{private.namespace}.work.dlq")
    for limit in (20, 200, 1, 200):
        await asyncio.to_thread(rabbit_node.evaluate, busy)
        letters = await bus.dead_letters.letters("work", limit=limit)
        assert [letter.id for letter in letters] == sent[:limit]


async def test_a_walk_that_outlasts_the_consumer_timeout_is_told_and_changes_nothing(
    private: RabbitHarness, impatient: None
) -> None:
    bus = await private.connect()
    sent = await _buried(bus, 100)

    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        # Until the broker has taken back what this walk has in hand; it tells nobody.
        async with asyncio.timeout(60):
            while await depth(bus, "work") < len(sent):
                await asyncio.sleep(0)
        return [Discard("late") for _ in letters]

    with pytest.raises(BrokerUnreachable, match="was looked at"):
        await bus.dead_letters.walk("work", decide, batch=10)
    # One look after another, each within the second.
    assert [letter.id for letter in await bus.dead_letters.letters("work", limit=200)] == sent
    assert await bus.dead_letters.letters(DISCARDED) == []
