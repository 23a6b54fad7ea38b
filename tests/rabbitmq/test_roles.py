"""One broker user per role, with exactly the permissions of the role: what it must do works, what it must not is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import aio_pika
import aiormq
import httpx2
import pytest
from nodes.rabbitmq import RabbitNode

from rockbot_messaging import (
    Ack,
    DeadLetter,
    Door,
    MessageEnvelope,
    Retry,
    Verdict,
    WatchSubscription,
    WorkSubscription,
)
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed, Unroutable
from rockbot_messaging.letters import DISCARDED, UNROUTED, Erase, Fate, Keep, Letter, Restore
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.rabbitmq.definitions import User, definitions
from rockbot_messaging.rabbitmq.roles import NOTHING, Role, host, operator, publisher, topic_regex, worker
from rockbot_messaging.rabbitmq.topology import Names, Topology, shared
from rockbot_messaging.retries import Fixed, RetryPolicy
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message

_NAMES = Names("roles")
_AGENT = WorkSubscription(
    name="agent.a", patterns=("agent.task.a", "agent.step.a"), retry=RetryPolicy(max_attempts=2, backoff=Fixed(1))
)
_SCRIPTS = WorkSubscription(
    name="scripts.python", patterns=("script.invoke.python",), retry=RetryPolicy(max_attempts=2, backoff=Fixed(1))
)


def _roles(names: Names) -> dict[str, Role]:
    """The four roles of a namespace; its users are called ``<namespace>-<role>``."""
    return {
        "host": host(names),
        "worker": worker(names, [_SCRIPTS], answers=("agent.step.*",), watches=("control.#",)),
        "publisher": publisher(names, user=f"{names.namespace}-publisher", topics=("agent.task.*",)),
        "operator": operator(names),
    }


def _hash(password: str) -> str:
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


@dataclass
class _Broker:
    """Buses and strangers, each as one role."""

    node: RabbitNode
    namespace: str
    buses: list[RabbitBus]
    strangers: list[aio_pika.abc.AbstractConnection]

    def url(self, role: str) -> str:
        return self.node.url_of(f"{self.namespace}-{role}", f"{role}-pw")

    async def bus(self, role: str, **options: object) -> RabbitBus:
        settings = RabbitSettings(url=self.url(role), namespace=self.namespace, **options)  # type: ignore[arg-type]
        bus = RabbitBus(settings, SystemClock(), RandomIds())
        self.buses.append(bus)
        await bus.open()
        return bus

    async def channel(self, role: str) -> aio_pika.abc.AbstractChannel:
        connection = await aio_pika.connect(self.url(role))
        self.strangers.append(connection)
        return await connection.channel()


@pytest.fixture
async def broker(managed_node: RabbitNode) -> AsyncIterator[_Broker]:
    namespace = f"r{uuid.uuid4().hex[:10]}"
    roles = _roles(Names(namespace))
    users = [User(f"{namespace}-{name}", role, _hash(f"{name}-pw")) for name, role in roles.items()]
    # RabbitMQ 4.3 takes topic permissions only for exchanges that exist.
    exchanges = Topology(exchanges=shared(Names(namespace)).exchanges)
    document = definitions(version="3.10.8", vhost="/", topology=exchanges, users=users)
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{managed_node.management_url}/api/definitions", json=document)
        assert answer.status_code < 300, answer.text
    broker = _Broker(managed_node, namespace, [], [])
    yield broker
    for bus in broker.buses:
        await bus.close()
    for connection in broker.strangers:
        await connection.close()


async def _refused(
    act: Callable[[aio_pika.abc.AbstractChannel], Awaitable[object]], channel: aio_pika.abc.AbstractChannel
) -> None:
    with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
        async with asyncio.timeout(60):
            await act(channel)


# -- the host -----------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_host_can_do_everything_a_host_does(broker: _Broker) -> None:
    bus = await broker.bus("host", subscriptions=("agent.a",))
    await bus.declare([_SCRIPTS])
    worker, watcher, replies = (
        Recorder([Retry(after=1), Ack(), DeadLetter(reason="no use")]),
        Recorder(),
        Recorder(),
    )
    await bus.subscriber.subscribe(_AGENT, worker)
    await bus.subscriber.subscribe(WatchSubscription(name="status", patterns=("agent.status.#",)), watcher)
    own = await bus.subscriber.subscribe(WatchSubscription(name="replies"), replies)
    await bus.publisher.publish(message("agent.task.a"))
    await bus.publisher.publish(message("agent.status.a"), door=Door.LOSSY)
    await bus.publisher.send(message("agent.response.a"), address=own.address)
    await worker.wait_finished(2)
    await bus.publisher.publish(message("agent.step.a"), door=Door.PUBLIC)
    await worker.wait_finished(3)
    await watcher.wait_for(1)
    await replies.wait_for(1)
    with pytest.raises(Unroutable):
        await bus.publisher.publish(message("nobody.hears"))
    async with asyncio.timeout(60):
        while not await bus.dead_letters.letters("agent.a"):
            await asyncio.sleep(0.02)
    (letter,) = await bus.dead_letters.letters("agent.a")
    await bus.dead_letters.discard("agent.a", letter.id, reason="seen")
    for letter in await bus.dead_letters.letters(UNROUTED):
        await bus.dead_letters.discard(UNROUTED, letter.id, reason="seen")


@pytest.mark.rabbitmq
async def test_a_host_can_do_nothing_outside_of_its_namespace(broker: _Broker) -> None:
    channel = await broker.channel("host")
    await _refused(lambda channel: channel.declare_queue("elsewhere.q", durable=True), channel)
    channel = await broker.channel("host")
    await _refused(lambda channel: channel.declare_exchange(f"{broker.namespace}x"), channel)


# -- the worker -----------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_worker_consumes_answers_delays_buries_and_hears_broadcasts(broker: _Broker) -> None:
    host_bus, bus = await broker.bus("host"), await broker.bus("worker", subscriptions=("scripts.python",))
    turns = Recorder()
    await host_bus.subscriber.subscribe(_AGENT, turns)
    await bus.declare([_SCRIPTS])
    control, done = Recorder(), Recorder([Retry(after=1), Ack(), DeadLetter(reason="no use")])

    async def run(envelope: MessageEnvelope) -> Verdict:
        await bus.publisher.publish(message("agent.step.a"))
        return await done(envelope)

    await bus.subscriber.subscribe(_SCRIPTS, run)
    await bus.subscriber.subscribe(WatchSubscription(name="control", patterns=("control.cancel",)), control)
    await host_bus.publisher.publish(message("script.invoke.python"))
    await done.wait_finished(2)
    await turns.wait_for(2)
    await host_bus.publisher.publish(message("script.invoke.python"))
    await host_bus.publisher.publish(message("control.cancel"), door=Door.LOSSY)
    await control.wait_for(1)
    async with asyncio.timeout(60):
        while not await host_bus.dead_letters.letters("scripts.python"):
            await asyncio.sleep(0.02)
    for letter in await host_bus.dead_letters.letters("scripts.python"):
        await host_bus.dead_letters.discard("scripts.python", letter.id, reason="seen")


@pytest.mark.rabbitmq
async def test_a_worker_gives_no_orders_and_reads_nobody_elses_work(broker: _Broker) -> None:
    await (await broker.bus("host")).declare([_AGENT, _SCRIPTS])
    bus = await broker.bus("worker")
    for topic, door in (
        ("agent.task.a", Door.COMMANDS),
        ("agent.step.a", Door.PUBLIC),
        ("script.invoke.python", Door.COMMANDS),
    ):
        with pytest.raises(NotConfirmed, match="ACCESS_REFUSED"):
            await bus.publisher.publish(message(topic), door=door)
    with pytest.raises(BrokerUnreachable, match=rf"(?i)access to queue '{broker.namespace}\.agent\.a"):
        await bus.declare([_AGENT])
    with pytest.raises(BrokerUnreachable, match=r"(?i)access to topic 'agent\.task\.a'"):
        await bus.subscriber.subscribe(WatchSubscription(name="spy", patterns=("agent.task.a",)), Recorder())
    channel = await broker.channel("worker")
    await _refused(lambda channel: _get(channel, f"{broker.namespace}.agent.a"), channel)
    channel = await broker.channel("worker")
    await _refused(lambda channel: _get(channel, f"{broker.namespace}.scripts.python.dlq"), channel)


# -- the publisher --------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_publisher_sends_a_task_and_receives_its_answer(broker: _Broker) -> None:
    bus = await broker.bus("host")

    async def answer(envelope: MessageEnvelope) -> Verdict:
        assert envelope.reply_to is not None
        await bus.publisher.send(message("agent.response.a", b"done"), address=envelope.reply_to)
        return Ack()

    await bus.subscriber.subscribe(_AGENT, answer)
    channel = await broker.channel("publisher")
    door = await channel.get_exchange(broker.namespace, ensure=False)
    for name, arguments in (("", {"exclusive": True}), (f"{broker.namespace}-publisher.reply.main", {"durable": True})):
        mine = await channel.declare_queue(name or None, **arguments)
        await door.publish(aio_pika.Message(b"{}", reply_to=mine.name), "agent.task.a")
        async with asyncio.timeout(60), mine.iterator() as answers:
            async for found in answers:
                assert found.body == b"done"
                await found.ack()
                break
    await mine.delete()


@pytest.mark.rabbitmq
async def test_a_publisher_can_send_nothing_but_tasks_and_read_nothing_of_ours(broker: _Broker) -> None:
    bus = await broker.bus("host")
    await bus.declare([_AGENT])
    attempts: list[Callable[[aio_pika.abc.AbstractChannel], Awaitable[object]]] = [
        lambda channel: _publish(channel, broker.namespace, "agent.step.a"),
        lambda channel: _publish(channel, broker.namespace, "agent.task.a.b"),
        lambda channel: _publish(channel, broker.namespace, "control.cancel"),
        lambda channel: _publish(channel, f"{broker.namespace}.commands", "agent.task.a"),
        lambda channel: _publish(channel, f"{broker.namespace}.lossy", "agent.task.a"),
        lambda channel: _publish(channel, "", f"{broker.namespace}.agent.a"),
        lambda channel: channel.declare_queue(f"{broker.namespace}.mine", durable=True),
        lambda channel: channel.declare_exchange(f"{broker.namespace}.mine"),
        lambda channel: _get(channel, f"{broker.namespace}.agent.a"),
        lambda channel: _get(channel, f"{broker.namespace}.agent.a.dlq"),
        lambda channel: _get(channel, f"{broker.namespace}.unrouted"),
        lambda channel: _purge(channel, f"{broker.namespace}.agent.a"),
        lambda channel: channel.queue_delete(f"{broker.namespace}.agent.a"),
        lambda channel: _eavesdrop(channel, broker.namespace),
    ]
    for attempt in attempts:
        await _refused(attempt, await broker.channel("publisher"))


async def _publish(channel: aio_pika.abc.AbstractChannel, exchange: str, topic: str) -> None:
    rpc = await channel.get_underlay_channel()
    await rpc.basic_publish(b"{}", exchange=exchange, routing_key=topic, mandatory=True)


async def _get(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
    await (await channel.get_underlay_channel()).basic_get(queue)


async def _purge(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
    await (await channel.get_underlay_channel()).queue_purge(queue)


async def _eavesdrop(channel: aio_pika.abc.AbstractChannel, namespace: str) -> None:
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(namespace, "agent.task.#")


# -- the operator ---------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_an_operator_asks_and_works_dead_letters(broker: _Broker) -> None:
    host_bus, bus = await broker.bus("host"), await broker.bus("operator", subscriptions=("agent.a",))
    worked = Recorder([DeadLetter(reason="one"), DeadLetter(reason="two")])

    async def work(envelope: MessageEnvelope) -> Verdict:
        if envelope.reply_to is not None:
            await host_bus.publisher.send(message("agent.response.a"), address=envelope.reply_to)
        return await worked(envelope)

    await host_bus.subscriber.subscribe(_AGENT, work)
    await bus.publisher.publish(message("agent.task.a"))
    await bus.publisher.publish(message("agent.task.a"))
    async with asyncio.timeout(60):
        while len(letters := await bus.dead_letters.letters("agent.a")) < 2:
            await asyncio.sleep(0.02)
    await bus.dead_letters.replay("agent.a", letters[0].id)
    await bus.dead_letters.discard("agent.a", letters[1].id, reason="seen")
    await worked.wait_finished(3)
    answers = Recorder()
    own = await bus.subscriber.subscribe(WatchSubscription(name="ask", patterns=("agent.status.a",)), answers)
    await bus.publisher.publish(message("agent.task.a").replace(reply_to=own.address))
    await answers.wait_for(1)


@pytest.mark.rabbitmq
async def test_an_operator_walks_restores_buries_and_looks_at_what_was_discarded(broker: _Broker) -> None:
    host_bus, bus = await broker.bus("host"), await broker.bus("operator", subscriptions=("agent.a",))
    worked = Recorder([DeadLetter(reason="one"), DeadLetter(reason="two")])
    await host_bus.subscriber.subscribe(_AGENT, worked)
    for _ in range(2):
        await host_bus.publisher.publish(message("agent.task.a"))
    async with asyncio.timeout(60):
        letters = await buried(bus, "agent.a", 2)
        await bus.dead_letters.discard("agent.a", letters[0].id, reason="seen")
        (put_away,) = await bus.dead_letters.letters(DISCARDED)
        assert put_away.id == letters[0].id

        async def restore(found: Sequence[Letter]) -> Sequence[Fate]:
            return [Restore() for _ in found]

        assert (await bus.dead_letters.walk(DISCARDED, restore)).refusals == 0

        async def erase(found: Sequence[Letter]) -> Sequence[Fate]:
            return [Erase() for _ in found]

        assert (await bus.dead_letters.walk("agent.a", erase)).refusals == 0
        await bus.dead_letters.bury("agent.a", letters[0].envelope, letters[0].failure)
        (again,) = await buried(bus, "agent.a", 1)
        assert again.id == letters[0].id


@pytest.mark.rabbitmq
async def test_a_host_walks_its_letters_for_the_index(broker: _Broker) -> None:
    bus = await broker.bus("host", subscriptions=("agent.a",))
    await bus.subscriber.subscribe(_AGENT, Recorder([DeadLetter(reason="one")]))
    await bus.publisher.publish(message("agent.task.a"))
    (letter,) = await buried(bus, "agent.a", 1)

    async def keep(found: Sequence[Letter]) -> Sequence[Fate]:
        return [Keep() for _ in found]

    walked = await bus.dead_letters.walk("agent.a", keep)
    assert (walked.kept, walked.refusals) == (1, 0)
    await bus.dead_letters.bury("agent.a", letter.envelope, letter.failure)
    await buried(bus, "agent.a", 2)


@pytest.mark.rabbitmq
async def test_an_operator_takes_no_work(broker: _Broker) -> None:
    await (await broker.bus("host")).declare([_AGENT])
    await _refused(lambda channel: _get(channel, f"{broker.namespace}.agent.a"), await broker.channel("operator"))
    await _refused(
        lambda channel: channel.queue_delete(f"{broker.namespace}.agent.a.dlq"), await broker.channel("operator")
    )
    await _refused(
        lambda channel: channel.declare_queue(f"{broker.namespace}.agent.b", durable=True),
        await broker.channel("operator"),
    )


# -- as data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("agent.task.*", ("agent.task.a",), ("agent.task", "agent.task.a.b", "agentxtask.a", "agent.task.")),
        ("control.#", ("control", "control.cancel", "control.a.b"), ("controls", "controlx.a")),
        ("#", ("a", "a.b", ""), ()),
        ("a.#.b", ("a.b", "a.x.b", "a.x.y.b"), ("ab", "a.x")),
    ],
)
def test_a_pattern_becomes_an_expression_for_the_same_topics(
    pattern: str, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    expression = re.compile(topic_regex(pattern))
    assert [topic for topic in inside if not expression.fullmatch(topic)] == []
    assert [topic for topic in outside if expression.fullmatch(topic)] == []


@pytest.mark.parametrize("role", _roles(_NAMES).values(), ids=_roles(_NAMES))
def test_every_expression_is_anchored(role: Role) -> None:
    expressions = [role.configure, role.write, role.read]
    expressions += [text for topic in role.topics for text in (topic.write, topic.read)]
    assert all(text.startswith("^") and text.endswith("$") for text in expressions)


def test_a_publisher_named_like_the_namespace_gets_no_queue_in_it() -> None:
    role = publisher(_NAMES, user=_NAMES.namespace, topics=("agent.task.*",))
    assert not re.search(role.configure, "roles.reply.1")
    assert re.search(role.configure, "amq.gen-x1")
    assert publisher(_NAMES, user="shop", topics=()).topics[0].write == NOTHING
