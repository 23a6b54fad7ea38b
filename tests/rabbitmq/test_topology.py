"""What is declared on the broker, and what happens when something else is there already."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import (
    Ack,
    Door,
    MessageEnvelope,
    Retry,
    RetryPolicy,
    Verdict,
    WatchSubscription,
    WorkSubscription,
)
from rockbot_messaging.errors import TopologyMismatch
from rockbot_messaging.rabbitmq.declaring import explain_mismatch
from rockbot_messaging.rabbitmq.topology import Names, delay, shared, watch, work
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import message

_WORK = WorkSubscription(name="work", patterns=("job.#", "task.*"))


def test_a_work_queue_is_a_quorum_queue_that_loses_nothing() -> None:
    buried, queue = work(Names("ns"), _WORK).queues
    assert queue.name == "ns.work"
    assert queue.arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "ns.work.dlq",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert buried.name == "ns.work.dlq"


def test_dead_letter_queues_have_a_delivery_limit_that_nobody_reaches_on_every_release() -> None:
    for topology in (work(Names("ns"), _WORK), shared(Names("ns"))):
        assert topology.queues[0].arguments == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


def test_work_is_bound_to_the_public_and_the_commands_exchange_with_the_same_keys() -> None:
    bindings = {(one.exchange, one.pattern) for one in work(Names("ns"), _WORK).bindings}
    assert bindings == {(exchange, key) for exchange in ("ns", "ns.commands") for key in ("job.#", "task.*")}


def test_a_delay_queue_expires_into_the_one_queue_it_belongs_to() -> None:
    (queue,) = delay(Names("ns"), "ns.work", 30).queues
    assert queue.name == "ns.work.delay.30"
    assert queue.arguments["x-message-ttl"] == 30_000
    assert (queue.arguments["x-dead-letter-exchange"], queue.arguments["x-dead-letter-routing-key"]) == ("", "ns.work")


def test_a_watch_queue_is_transient_and_bound_to_all_doors() -> None:
    topology = watch(Names("ns"), WatchSubscription(name="news", patterns=("news.#",)), "ns.watch.news.1")
    assert [(queue.name, queue.transient) for queue in topology.queues] == [("ns.watch.news.1", True)]
    assert topology.queues[0].arguments == {"x-max-length": 10_000, "x-overflow": "drop-head"}
    assert {one.exchange for one in topology.bindings} == {Names("ns").exchange(door) for door in Door}


def test_a_refused_declaration_is_told_in_one_line() -> None:
    text = explain_mismatch(
        "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'ns.work' in vhost '/': received the value "
        "'20' of type 'signedint' but current is the value '5' of type 'signedint'"
    )
    assert text.startswith(
        "queue 'ns.work' in virtual host '/' exists with another 'x-delivery-limit': it has 5, needed is 20"
    )
    missing = explain_mismatch(
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received the value "
        "'' of type 'longstr' but current is none"
    )
    assert "it has none" in missing
    assert explain_mismatch("PRECONDITION_FAILED - something new").endswith("Nothing that exists was changed.")


@pytest.mark.rabbitmq
async def test_the_broker_has_what_the_table_says(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    names = Names(harness.namespace)
    bus = await harness.connect()
    handled = asyncio.Event()

    async def handler(envelope: MessageEnvelope) -> Verdict:
        if envelope.attempt == 1:
            return Retry(after=1)
        handled.set()
        return Ack()

    retry = RetryPolicy(max_attempts=3)
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), retry=retry), handler)
    watching = await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news.#",)), handler)
    replies = await bus.subscriber.subscribe(WatchSubscription(name="replies"), handler)
    await bus.publisher.publish(message("job.one"))
    async with asyncio.timeout(60):
        await handled.wait()
    queues = {
        row["name"]: row
        for row in await _listed(rabbit_node, "queues", "name", "arguments", "durable", "auto_delete", "exclusive")
    }
    subscription = WorkSubscription(name="work", patterns=("job.#",))
    wanted = shared(names) + work(names, subscription) + delay(names, "q", 1)
    for queue in wanted.queues:
        if queue.name.startswith("q."):
            continue
        row = queues[queue.name]
        assert {name: value for name, _, value in row["arguments"]} == dict(queue.arguments)
        assert row["durable"]
    assert queues[names.delay(names.queue("work"), 1)]["durable"]
    assert watching.address.startswith(f"{harness.namespace}.watch.news.")
    assert replies.address.startswith(f"{harness.namespace}.reply.")
    for address in (watching.address, replies.address):
        assert queues[address]["exclusive"] and queues[address]["auto_delete"] and not queues[address]["durable"]
    exchanges = {row["name"]: row for row in await _listed(rabbit_node, "exchanges", "name", "type", "arguments")}
    assert {name: value for name, _, value in exchanges[harness.namespace]["arguments"]} == {
        "alternate-exchange": names.unrouted
    }
    assert exchanges[f"{harness.namespace}.commands"]["arguments"] == []
    assert {exchanges[names.exchange(door)]["type"] for door in Door} == {"topic"}
    await harness.close()


async def _listed(node: RabbitNode, what: str, *columns: str) -> list[dict[str, Any]]:
    text = await asyncio.to_thread(node.ctl, f"list_{what}", "--formatter", "json", *columns)
    return list(json.loads(text))


@pytest.mark.rabbitmq
async def test_a_queue_with_other_arguments_is_reported_and_left_alone(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="other", patterns=("other",)), worker)
    channel = await harness.stranger()
    name = f"{harness.namespace}.work"
    await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})
    with pytest.raises(TopologyMismatch, match=rf"queue '{name}' .* exists with another 'x-d"):
        await bus.declare([_WORK])
    with pytest.raises(TopologyMismatch):
        await bus.subscriber.subscribe(_WORK, worker)
    again = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})
    assert again.declaration_result.message_count == 0
    # Neither the consumers nor the publisher of this bus noticed.
    await bus.publisher.publish(message("other"))
    await worker.wait_for(1)
    bus.cut()
    await bus.publisher.publish(message("other"))
    await worker.wait_for(2)


@pytest.mark.rabbitmq
async def test_a_namespace_keeps_apart(amqp_url: str) -> None:
    ours, theirs = RabbitHarness(amqp_url), RabbitHarness(amqp_url)
    buses = [await ours.connect(), await theirs.connect()]
    workers = [Recorder(), Recorder()]
    for bus, worker in zip(buses, workers, strict=True):
        await bus.subscriber.subscribe(_WORK, worker)
    for bus in buses:
        await bus.publisher.publish(message("job.one"))
    for worker in workers:
        await worker.wait_finished(1)
    assert [len(worker.seen) for worker in workers] == [1, 1]
    for harness in (ours, theirs):
        await harness.close()
