"""The management interface: looking, setting policies, and carrying a plan out without losing a message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aio_pika
import pytest
from nodes.rabbitmq import RabbitNode, free_port
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import WorkSubscription
from rockbot_messaging.errors import BrokerUnreachable, MessagingError, NotConfirmed
from rockbot_messaging.rabbitmq.applying import Done, apply, prune
from rockbot_messaging.rabbitmq.connection import Link, Session
from rockbot_messaging.rabbitmq.management import Management, ManagementRefused
from rockbot_messaging.rabbitmq.planning import Mark, Plan, plan
from rockbot_messaging.rabbitmq.policies import Limits, Policy, wanted_policies
from rockbot_messaging.rabbitmq.topology import Binding, Names, Topology, shared, work
from rockbot_messaging.testing.harness import message

pytestmark = pytest.mark.rabbitmq

_CANARY = "c4n4ry-p4ssw0rd"
#: Seconds; the node of these tests counts its queues more often than a usual one.
_ROUND = 2.0


@dataclass
class _Desk:
    """One namespace, looked at from both sides."""

    harness: RabbitHarness
    management: Management
    session: Session
    wanted: Topology
    names: Names

    @property
    def work_queue(self) -> str:
        return self.names.queue("work")

    @property
    def policies(self) -> tuple[Policy, ...]:
        return wanted_policies(self.names, Limits(), version=(3, 10))

    async def plan(self) -> Plan:
        found = await self.management.look()
        return plan(self.names, self.wanted, self.policies, found, work=[self.work_queue], vhost="/")

    async def apply(self, **options: bool) -> list[Done]:
        return [done async for done in apply(self.session, self.management, await self.plan(), self.wanted, **options)]

    async def prune(self, **options: float) -> list[Done]:
        steps = (await self.plan()).marked(Mark.SURPLUS)
        options = {"counting_round": _ROUND, **options}
        return [done async for done in prune(self.session, self.management, steps, **options)]

    async def queue(self, name: str, *, patterns: tuple[str, ...] = ()) -> aio_pika.abc.AbstractQueue:
        """A durable quorum queue that nobody of ours asked for."""
        channel = await self.harness.stranger()
        queue = await channel.declare_queue(
            f"{self.names.namespace}.{name}", durable=True, arguments={"x-queue-type": "quorum"}
        )
        for pattern in patterns:
            await queue.bind(self.names.namespace, pattern)
        return queue

    async def surplus(self) -> set[str]:
        return {step.name for step in (await self.plan()).marked(Mark.SURPLUS)}


@asynccontextmanager
async def _desk(node: RabbitNode) -> AsyncIterator[_Desk]:
    harness = RabbitHarness(node.url)
    names = Names(harness.namespace)
    subscription = WorkSubscription(name="work", patterns=("job.#",))
    link = Link(harness.settings(), "test")
    await link.open()
    async with Management(node.management_url, vhost="/") as management:
        wanted = shared(names) + work(names, subscription)
        yield _Desk(harness, management, await link.session(5), wanted, names)
    await link.close()
    await harness.close()


@pytest.fixture
async def desk(managed_node: RabbitNode) -> AsyncIterator[_Desk]:
    async with _desk(managed_node) as desk:
        yield desk


# -- applying -----------------------------------------------------------------------------------------------------------


async def test_applying_a_plan_leaves_no_difference_and_applying_again_does_nothing(desk: _Desk) -> None:
    before = await desk.plan()
    assert {step.kind for step in before.steps} == {"exchange", "queue", "binding", "policy"}
    assert [done.error for done in await desk.apply() if done.error] == []
    assert (await desk.plan()).steps == ()
    assert await desk.apply() == []


async def test_applying_over_amqp_alone_makes_everything_but_policies(desk: _Desk) -> None:
    found = replace(await desk.management.look(), bindings=None, policies=None, whole=False)
    blind = plan(desk.names, desk.wanted, desk.policies, found, work=[desk.work_queue], vhost="/")
    done = [item async for item in apply(desk.session, None, blind, desk.wanted)]
    assert [item.error for item in done if item.error] == []
    assert {step.kind for step in (await desk.plan()).steps} == {"policy"}


async def test_a_missing_binding_is_added_and_a_surplus_one_goes_only_when_asked_for(desk: _Desk) -> None:
    await desk.apply()
    channel = await desk.harness.stranger()
    queue = await channel.get_queue(desk.work_queue)
    await queue.unbind(desk.names.namespace, "job.#")
    await queue.bind(desk.names.namespace, "old.#")
    done = await desk.apply()
    assert [item.step.subject for item in done] == [Binding(desk.work_queue, desk.names.namespace, "job.#")]
    (left,) = (await desk.plan()).steps
    assert (left.mark, left.subject) == (Mark.SURPLUS, Binding(desk.work_queue, desk.names.namespace, "old.#"))
    await desk.apply(remove_bindings=True)
    assert (await desk.plan()).steps == ()


async def test_a_changed_policy_is_set_right(desk: _Desk) -> None:
    await desk.apply()
    await desk.management.set_policy(replace(desk.policies[0], definition={"max-length": 3}))
    (step,) = (await desk.plan()).steps
    assert (step.mark, step.kind) == (Mark.ALTER, "policy")
    await desk.apply()
    assert (await desk.plan()).steps == ()


async def test_what_would_cost_messages_is_refused_and_the_rest_is_done(desk: _Desk) -> None:
    await desk.queue("work")
    done = await desk.apply()
    refused = (await desk.plan()).steps
    assert [(step.mark, step.name) for step in refused] == [(Mark.REFUSE, desk.work_queue)]
    assert "x-delivery-limit is missing" in refused[0].reason
    assert all(not item.error for item in done)
    there = await desk.management.queue(desk.work_queue)
    assert there is not None and there.arguments == {"x-queue-type": "quorum"}


async def test_a_full_queue_refuses_and_drops_nothing(desk: _Desk) -> None:
    await desk.apply()
    small, _ = wanted_policies(desk.names, Limits(max_messages=3), version=(3, 10))
    await desk.management.set_policy(small)
    bus = await desk.harness.connect()
    confirmed = 0
    with pytest.raises(NotConfirmed):
        async with asyncio.timeout(60):
            while confirmed < 1000:
                await bus.publisher.publish(message("job.one", str(confirmed).encode()))
                confirmed += 1
    queue = await (await desk.harness.stranger()).get_queue(desk.work_queue)
    kept = [found.body async for found in _everything(queue)]
    assert kept[:confirmed] == [str(number).encode() for number in range(confirmed)], "the oldest are still there"
    assert 3 <= confirmed < 1000


async def _everything(queue: aio_pika.abc.AbstractQueue) -> AsyncIterator[aio_pika.abc.AbstractIncomingMessage]:
    while (found := await queue.get(no_ack=True, fail=False)) is not None:
        yield found


# -- pruning ------------------------------------------------------------------------------------------------------------


async def test_pruning_deletes_what_is_empty_and_unused_and_nothing_else(desk: _Desk) -> None:
    await desk.apply()
    await desk.queue("old", patterns=("old.#",))
    await desk.queue("old.dlq")
    full = await desk.queue("full", patterns=("full.#",))
    channel = await desk.harness.stranger()
    await channel.default_exchange.publish(aio_pika.Message(b"keep me"), full.name)
    consumed = await desk.queue("consumed")
    await consumed.consume(_ignore)
    errors = {done.step.name: done.error for done in await desk.prune()}
    assert errors[f"{desk.names.namespace}.old"] == errors[f"{desk.names.namespace}.old.dlq"] == ""
    assert errors[full.name] == "left alone: it has 1 messages"
    assert errors[consumed.name] == "left alone: it has 1 consumers"
    assert await desk.surplus() == {full.name, consumed.name}
    message = await full.get()
    assert message is not None and message.body == b"keep me"
    assert (await desk.plan()).marked(Mark.ADD, Mark.ALTER, Mark.REFUSE) == (), "what is wanted was not touched"


async def test_a_message_in_somebodys_hands_keeps_its_queue(desk: _Desk) -> None:
    await desk.apply()
    held = await desk.queue("held", patterns=("held.#",))
    channel = await desk.harness.stranger()
    await channel.default_exchange.publish(aio_pika.Message(b"in hand"), held.name)
    message = await (await channel.get_queue(held.name)).get()
    assert message is not None
    (done,) = await desk.prune()
    assert done.error.startswith("left alone: it has 1 "), "the broker counts whoever holds a message as a consumer"
    await message.nack(requeue=True)
    assert held.name in await desk.surplus()
    bindings = (await desk.management.look()).bindings or frozenset()
    assert Binding(held.name, desk.names.namespace, "held.#") in bindings, "what stays is bound as before"


async def test_a_broker_that_does_not_count_is_not_pruned() -> None:
    # Later releases mean to switch this collection off by themselves.
    node = RabbitNode(
        plugins=("rabbitmq_management",), extra_config="management_agent.disable_metrics_collector = true\n"
    )
    node.start()
    try:
        async with _desk(node) as desk:
            assert [done.error for done in await desk.apply() if done.error] == []
            assert (await desk.plan()).steps == ()
            old = await desk.queue("old", patterns=("old.#",))
            (done,) = await desk.prune()
            assert (done.step.name, "does not count its messages" in done.error) == (old.name, True)
            assert await desk.surplus() == {old.name}
            bindings = (await desk.management.look()).bindings or frozenset()
            assert Binding(old.name, desk.names.namespace, "old.#") in bindings
    finally:
        node.stop()


async def test_a_message_that_comes_while_pruning_keeps_its_queue_and_its_bindings(desk: _Desk) -> None:
    await desk.apply()
    channel, loop = await desk.harness.stranger(), asyncio.get_running_loop()
    for counting in (2.5, 7, 25):
        late = await desk.queue("late", patterns=("late.#",))
        second_look = loop.time() + counting
        pruning = asyncio.create_task(desk.prune(counting_round=counting))
        async with asyncio.timeout(60):
            while not pruning.done() and late.name in {b.queue for b in (await desk.management.look()).bindings or ()}:
                await asyncio.sleep(0.05)
        await channel.default_exchange.publish(aio_pika.Message(b"late"), late.name)
        between_the_looks = loop.time() < second_look
        (done,) = await pruning
        if between_the_looks:
            break
        # This machine is too slow for such a short round.
        await late.delete(if_unused=False, if_empty=False)
    assert done.error == "left alone: it has 1 messages"
    assert Binding(late.name, desk.names.namespace, "late.#") in ((await desk.management.look()).bindings or ())
    message = await late.get()
    assert message is not None and message.body == b"late"


async def test_a_surplus_exchange_goes_unless_something_is_bound_to_it(desk: _Desk) -> None:
    await desk.apply()
    channel = await desk.harness.stranger()
    used, free = f"{desk.names.namespace}.used", f"{desk.names.namespace}.free"
    for name in (used, free):
        await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
    mine = await channel.declare_queue(exclusive=True)
    await mine.bind(used, "#")
    errors = {done.step.name: done.error for done in await desk.prune()}
    assert errors[free] == ""
    assert "in use" in errors[used]
    assert await desk.surplus() == {used}


async def _ignore(_: object) -> None: ...


# -- refusals -----------------------------------------------------------------------------------------------------------


async def _look(url: str, vhost: str = "/") -> str:
    async with Management(url, vhost=vhost) as management:
        with pytest.raises(MessagingError) as caught:
            await management.look()
    text = str(caught.value)
    assert "\n" not in text
    assert _CANARY not in text
    return text


async def test_a_wrong_password_is_told_in_one_line_that_does_not_repeat_it(
    managed_node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = await _look(f"http://guest:{_CANARY}@127.0.0.1:{managed_node.management_port}")
    assert f"127.0.0.1:{managed_node.management_port} refuses user 'guest'" in text
    assert _CANARY not in caplog.text


async def test_an_address_where_nobody_or_somebody_else_answers_is_told(managed_node: RabbitNode) -> None:
    nobody = free_port()
    assert f"127.0.0.1:{nobody} cannot be used" in await _look(f"http://guest:{_CANARY}@127.0.0.1:{nobody}")
    assert "cannot be used" in await _look(f"http://guest:{_CANARY}@127.0.0.1:{managed_node.port}")
    assert "cannot be used" in await _look(f"https://guest:{_CANARY}@127.0.0.1:{managed_node.management_port}")


async def test_a_virtual_host_that_is_missing_is_told(managed_node: RabbitNode) -> None:
    assert "is the virtual host right?" in await _look(managed_node.management_url, vhost="nowhere")


async def test_a_user_without_the_tag_is_told_which_tags_it_needs(managed_node: RabbitNode) -> None:
    await asyncio.to_thread(managed_node.add_user, "untagged", _CANARY, read=".*")
    text = await _look(f"http://untagged:{_CANARY}@127.0.0.1:{managed_node.management_port}")
    assert "the tag `management`" in text


async def test_a_user_who_may_look_but_not_set_policies_is_told(managed_node: RabbitNode) -> None:
    await asyncio.to_thread(managed_node.add_user, "looker", _CANARY, read=".*", tags=("management",))
    async with Management(f"http://looker:{_CANARY}@127.0.0.1:{managed_node.management_port}", vhost="/") as management:
        await management.look()
        with pytest.raises(ManagementRefused, match="policymaker"):
            await management.set_policy(Policy("mine", "^mine$", {"max-length": 1}))


@pytest.mark.parametrize("url", ["", "amqp://host", "http://", f"http://u:{_CANARY}@host:99999999"])
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="the management URL must read") as caught:
        Management(url, vhost="/")
    assert _CANARY not in str(caught.value)


async def test_alarms_are_told(managed_node: RabbitNode) -> None:
    async with Management(managed_node.management_url, vhost="/") as management:
        assert await management.alarms() == []
        await asyncio.to_thread(managed_node.allow_memory, "1")
        try:
            assert await management.alarms() == ["memory"]
        finally:
            await asyncio.to_thread(managed_node.allow_memory)
    with pytest.raises(BrokerUnreachable):
        async with Management(f"http://127.0.0.1:{free_port()}", vhost="/") as management:
            await management.alarms()
