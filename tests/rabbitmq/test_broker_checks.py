"""What `doctor` finds out about a broker, and what it says to do."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from nodes.rabbitmq import RabbitNode, free_port
from rabbitmq.harness import RabbitHarness

from rockbot.errors import ConfigError
from rockbot.operators.broker_access import BrokerAccess, handler_seconds, work_of
from rockbot.operators.broker_checks import broker_checks, timeout_checks, wire_checks
from rockbot.operators.models import Check
from rockbot.settings import Settings, load
from rockbot_messaging.rabbitmq.found import Found
from rockbot_messaging.rabbitmq.policies import Policy
from rockbot_messaging.rabbitmq.topology import Names

_CANARY = "c4n4ry-p4ssw0rd"


class _Site:
    """A namespace on the managed node, and its settings."""

    def __init__(self, node: RabbitNode, folder: Path) -> None:
        self.node = node
        self.namespace = f"d{uuid.uuid4().hex[:8]}"
        self.names = Names(self.namespace)
        self.harness = RabbitHarness(node.url)
        self._folder = folder

    def settings(self, *, managed: bool = True, **changes: Any) -> Settings:
        broker = {"management_url": self.node.management_url} if managed else {}
        return load(
            {
                "broker_url": self.node.url,
                "namespace": self.namespace,
                "state_url": f"sqlite:///{self._folder}/state.db",
                **changes,
                "broker": broker | changes.get("broker", {}),
            }
        )

    async def checks(self, **changes: Any) -> dict[str, Check]:
        return {check.name: check for check in await broker_checks(self.settings(**changes))}

    async def apply(self) -> None:
        async with BrokerAccess(self.settings()) as access:
            done = [item async for item in access.apply(await access.plan())]
        assert [item.error for item in done if item.error] == []

    async def consume(self) -> None:
        channel = await self.harness.stranger()
        for item in work_of(self.settings()).all:
            await (await channel.get_queue(self.names.queue(item.name), ensure=False)).consume(_ignore)


async def _ignore(_: object) -> None: ...


@pytest.fixture
async def site(managed_node: RabbitNode, tmp_path: Path) -> AsyncIterator[_Site]:
    site = _Site(managed_node, tmp_path)
    yield site
    await site.harness.close()


# -- on a broker ----------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_a_broker_that_has_everything_and_is_consumed_is_healthy(site: _Site) -> None:
    await site.apply()
    await site.consume()
    for managed in (True, False):
        checks = await site.checks(managed=managed)
        assert {name: check.status for name, check in checks.items() if check.status != "ok"} == {}
        assert re.match(r"RabbitMQ \d+\.\d+\.\d+ at ", checks["broker version"].detail)
        assert "broker consumers" in checks
        assert "1000000 messages" in checks["broker limits"].detail
    assert "broker.management_url" in checks["broker limits"].advice


@pytest.mark.rabbitmq
async def test_missing_queues_and_consumers_are_warnings_that_say_what_to_start(site: _Site) -> None:
    empty = await site.checks()
    assert empty["broker queues"].status == "warn"
    assert "rockbot topology apply" in empty["broker queues"].advice
    assert empty["broker limits"].status == "warn"
    await site.apply()
    idle = await site.checks()
    assert (idle["broker queues"].status, idle["broker consumers"].status) == ("ok", "warn")
    assert f"{site.namespace}.agent.assistant" in idle["broker consumers"].detail
    channel = await site.harness.stranger()
    await channel.default_exchange.publish(aio_pika.Message(b"x"), site.names.queue("agent.assistant"))
    waiting = next(check for check in await broker_checks(site.settings()) if check.name == "broker consumers")
    assert waiting.status == "fail"
    assert waiting.detail == f"messages wait and nobody consumes: {site.namespace}.agent.assistant (1)"
    assert "rockbot run" in waiting.advice


@pytest.mark.rabbitmq
async def test_queues_of_handlers_that_are_not_configured_here_are_not_missed(site: _Site) -> None:
    await site.apply()
    checks = await site.checks(handlers=("logging", "deadline", "agent"))
    # The agent addresses the queues of model calls; who consumes them is configured elsewhere.
    assert checks["broker consumers"].detail == f"nobody consumes: {site.namespace}.agent.assistant"


@pytest.mark.rabbitmq
async def test_a_queue_with_other_arguments_and_one_that_is_not_bound_fail(site: _Site) -> None:
    await site.apply()
    channel = await site.harness.stranger()
    queue = site.names.queue("agent.assistant")
    await channel.queue_delete(queue)
    await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    for managed in (True, False):
        checks = await site.checks(managed=managed)
        assert checks[f"queue {queue}"].status == "fail"
        assert "x-d" in checks[f"queue {queue}"].detail
    await channel.queue_delete(queue)
    async with BrokerAccess(site.settings()) as access:
        step = next(step for step in (await access.plan()).steps if step.name == queue)
        assert step.subject is not None
        await channel.declare_queue(queue, durable=True, arguments=dict(step.subject.arguments))  # type: ignore[union-attr]
    unbound = (await site.checks())["broker queues"]
    assert unbound.status == "fail"
    assert f"{site.namespace} -> {queue} (agent.task.assistant)" in unbound.detail


@pytest.mark.rabbitmq
async def test_a_policy_that_drops_letters_fails(site: _Site) -> None:
    await site.apply()
    async with BrokerAccess(site.settings()) as access:
        management = await access.management()
        assert management is not None
        await management.set_policy(
            Policy(f"{site.namespace}-short", rf"^{site.namespace}\..*\.dlq$", {"message-ttl": 5000})
        )
        check = (await site.checks())[f"policy {site.namespace}-short"]
    assert check.status == "fail"
    assert "erases letters after 5 s" in check.detail
    assert "narrow its pattern" in check.advice


@pytest.mark.rabbitmq
async def test_a_user_who_may_not_declare_is_told_what_it_lacks(site: _Site) -> None:
    await site.apply()
    user = f"{site.namespace}-poor"
    url = await asyncio.to_thread(site.node.add_user, user, _CANARY, configure="^$", write="^$", read=".*")
    check = (await site.checks(broker_url=url))["broker permissions"]
    assert check.status == "warn"
    assert f"user '{user}' may not declare {site.namespace}.unrouted" in check.detail
    assert f"rabbitmqctl set_permissions -p / {user} '^{site.namespace}(\\..+)?$'" in check.advice
    known = (await site.checks(broker_url=url, trust={"users": {user: "operator"}}))["broker permissions"]
    assert known.status == "ok"
    assert "as role 'operator' it need not" in known.detail


@pytest.mark.rabbitmq
async def test_a_broker_short_of_memory_fails(site: _Site) -> None:
    await asyncio.to_thread(site.node.allow_memory, "1")
    try:
        check = (await site.checks())["broker alarms"]
    finally:
        await asyncio.to_thread(site.node.allow_memory)
    assert (check.status, check.detail) == ("fail", "the broker takes no publishes: memory")


@pytest.mark.rabbitmq
@pytest.mark.parametrize("address", [f"http://guest:{_CANARY}@127.0.0.1:1", f"htp://guest:{_CANARY}@host"])
async def test_a_management_interface_that_cannot_be_used_is_a_warning_and_the_rest_is_checked(
    site: _Site, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    caplog.set_level(logging.DEBUG)
    checks = await site.checks(broker={"management_url": address})
    assert checks["broker management"].status == "warn"
    assert checks["broker version"].status == "ok"
    assert _CANARY not in caplog.text + "".join(check.detail + check.advice for check in checks.values())


# -- without a broker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (f"amqp://guest:{_CANARY}@192.0.2.1/", {"broker wire": "warn", "broker user": "warn"}),
        (f"amqps://guest:{_CANARY}@rabbit.example/", {"broker wire": "ok", "broker user": "warn"}),
        (f"amqp://host:{_CANARY}@rabbit.example/", {"broker wire": "warn"}),
        (f"amqp://guest:{_CANARY}@127.0.0.1/", {"broker wire": "ok"}),
        (f"amqp://guest:{_CANARY}@[::1]/", {"broker wire": "ok"}),
    ],
)
def test_plain_amqp_and_the_default_user_on_another_machine_are_warnings(url: str, wanted: dict[str, str]) -> None:
    checks = wire_checks(BrokerAccess(load({"broker_url": url})))
    assert {check.name: check.status for check in checks} == wanted
    assert _CANARY not in "".join(check.detail + check.advice for check in checks)


def test_a_management_interface_over_plain_http_on_another_machine_is_a_warning() -> None:
    address = f"http://u:{_CANARY}@192.0.2.1:15672"
    settings = load({"broker_url": "amqps://h:p@192.0.2.1/", "broker": {"management_url": address}})
    (_, check) = wire_checks(BrokerAccess(settings))
    assert (check.status, check.advice) == ("warn", "use https://")
    assert _CANARY not in check.detail


async def test_a_broker_that_cannot_be_reached_is_left_to_whoever_opens_the_bus(tmp_path: Path) -> None:
    url = f"amqp://guest:{_CANARY}@127.0.0.1:{free_port()}/"
    checks = await broker_checks(load({"broker_url": url, "state_url": f"sqlite:///{tmp_path}/state.db"}))
    assert [check.name for check in checks] == ["broker wire"]


def test_the_longest_handler_decides_how_long_a_delivery_may_last() -> None:
    assert handler_seconds(load({})) == 600
    assert handler_seconds(load({"anthropic": {"timeout_seconds": 1200}})) == 1200
    assert handler_seconds(load({"providers": {"ollama": {"timeout_seconds": 1300}}})) == 1300
    assert handler_seconds(load({"scripts": {"max_wall_seconds": 4000}})) == 4000


@pytest.mark.parametrize(
    ("version", "seconds", "policies", "status"),
    [
        ("3.10.8", 600, (), "ok"),
        ("3.10.8", 1200, (), "warn"),
        ("3.10.8", 1800, (), "fail"),
        ("4.1.0", 1200, (Policy("p", r"^rockbot\..*", {"consumer-timeout": 2_400_000}),), "ok"),
        ("4.1.0", 600, (Policy("p", r"^rockbot\..*", {"consumer-timeout": 60_000}),), "fail"),
    ],
)
def test_a_handler_must_fit_twice_into_the_consumer_timeout(
    version: str, seconds: float, policies: tuple[Policy, ...], status: str
) -> None:
    settings = load({"broker_url": "amqp://127.0.0.1/", "anthropic": {"timeout_seconds": seconds}})
    (check,) = timeout_checks(BrokerAccess(settings), Found(version=version, policies=policies))
    assert check.status == status
    if version == "3.10.8" and status != "ok":
        assert f"consumer_timeout = {int(2000 * seconds)}" in check.advice


def test_limits_are_settings() -> None:
    settings = load(
        {
            "broker_url": "amqp://127.0.0.1/",
            "broker": {"max_queue_messages": 7, "max_queue_bytes": 1 << 21, "max_unrouted_messages": 9},
        }
    )
    work, unrouted = BrokerAccess(settings).policies("3.10.8")
    assert work.definition == {"max-length": 7, "max-length-bytes": 1 << 21}
    assert unrouted.definition["max-length"] == 9


def test_an_embedded_host_has_no_broker_to_check() -> None:
    with pytest.raises(ConfigError, match="embedded"):
        BrokerAccess(load({}))
