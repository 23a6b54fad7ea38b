"""`rockbot topology`: the broker compared with the settings, and mended; nothing secret in what it prints."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from cli.conftest import Ran
from nodes.rabbitmq import RabbitNode, free_port

_CANARY = "c4n4ry-p4ssw0rd"

Topology = Callable[..., Ran]


@pytest.fixture
def namespace() -> str:
    return f"c{uuid.uuid4().hex[:8]}"


@pytest.fixture
def blind(
    managed_node: RabbitNode, alone: Callable[..., Ran], namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Topology:
    """`rockbot topology ...` over AMQP alone."""
    monkeypatch.setenv("ROCKBOT_BROKER_URL", managed_node.url)
    monkeypatch.setenv("ROCKBOT_NAMESPACE", namespace)
    return lambda *arguments: alone("topology", *arguments)


@pytest.fixture
def topology(managed_node: RabbitNode, blind: Topology, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """`rockbot topology ...` with the management interface."""
    monkeypatch.setenv("ROCKBOT_BROKER__MANAGEMENT_URL", managed_node.management_url)
    return blind


def _on_broker(node: RabbitNode, act: Callable[[aio_pika.abc.AbstractChannel], Any]) -> None:
    async def run() -> None:
        connection = await aio_pika.connect(node.url)
        async with connection:
            await act(await connection.channel())

    asyncio.run(run())


@pytest.mark.rabbitmq
def test_plan_then_apply_then_nothing_is_left_to_do(topology: Topology, namespace: str) -> None:
    before = topology("plan")
    assert before.code == 6
    assert f"+  queue     {namespace}.agent.assistant " in before.out
    dry = topology("apply", "--dry-run")
    assert (dry.code, dry.out) == (6, before.out)
    assert topology("apply").code == 0
    after = topology("plan")
    assert (after.code, after.out) == (0, "no difference\n")
    again = topology("apply")
    assert (again.code, again.out) == (0, "nothing to do\n")


@pytest.mark.rabbitmq
def test_over_amqp_alone_it_says_what_it_does_not_see(blind: Topology) -> None:
    assert blind("plan").code == 6
    applied = blind("apply")
    assert applied.code == 0
    assert "made sure of" in applied.out
    after = blind("plan")
    assert after.code == 0
    assert after.out == "no difference in what could be seen\n"
    assert "not seen: policies and limits" in after.err
    assert "broker.management_url" in after.err
    refused = blind("prune", "--yes")
    assert refused.code == 3
    assert "broker.management_url" in refused.err


@pytest.mark.rabbitmq
def test_the_plan_as_json_is_one_object(topology: Topology, managed_node: RabbitNode, namespace: str) -> None:
    (plan,) = topology("plan", "--json").lines
    assert (plan["namespace"], plan["version"]) == (namespace, managed_node.ctl("version").strip())
    first = plan["differences"][0]
    assert (first["mark"], first["kind"], first["name"]) == ("+", "exchange", f"{namespace}.unrouted")
    (done,) = topology("apply", "--json").lines
    assert all(item["done"] for item in done)


@pytest.mark.rabbitmq
def test_a_queue_that_cannot_be_altered_is_refused_with_the_commands(
    topology: Topology, managed_node: RabbitNode, namespace: str
) -> None:
    name = f"{namespace}.agent.assistant"

    async def declare(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"kept"), name)

    _on_broker(managed_node, declare)
    ran = topology("apply")
    assert ran.code == 6
    assert f"refused: queue {name}: x-dead-letter-exchange is missing" in ran.err
    assert f"rabbitmqctl delete_queue -p / {name}" in ran.out
    assert managed_node.ctl("list_queues", "name", "messages").count(f"{name}\t1\n") == 1


@pytest.mark.rabbitmq
def test_pruning_asks_first_and_keeps_what_holds_messages(
    topology: Topology, managed_node: RabbitNode, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology("apply")

    async def leave(channel: aio_pika.abc.AbstractChannel) -> None:
        for name in ("old", "old.dlq"):
            await channel.declare_queue(
                f"{namespace}.{name}", durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 9}
            )
        await channel.default_exchange.publish(aio_pika.Message(b"a letter"), f"{namespace}.old.dlq")

    _on_broker(managed_node, leave)
    nobody = topology("prune")
    assert nobody.code == 2
    assert "--yes" in nobody.err
    monkeypatch.setattr("rockbot_messaging.rabbitmq.applying.COUNTING_ROUND", 2.0)
    ran = topology("prune", "--yes")
    assert ran.code == 6
    assert re.search(rf"^-  queue  {namespace}\.old +deleted$", ran.out, re.MULTILINE)
    assert "rockbot dlq list old" in ran.out
    queues = managed_node.ctl("list_queues", "name", "messages")
    assert f"{namespace}.old.dlq\t1\n" in queues
    assert f"{namespace}.old\t" not in queues


@pytest.mark.rabbitmq
def test_exported_definitions_are_complete_and_carry_only_given_hashes(
    topology: Topology, managed_node: RabbitNode, namespace: str, tmp_path: Path
) -> None:
    plain = json.loads(topology("export").out)
    assert "users" not in plain
    given = base64.b64encode(b"salt" + hashlib.sha256(b"saltx").digest()).decode()
    hashes = tmp_path / "hashes.json"
    hashes.write_text(json.dumps({f"{namespace}-host": given}))
    ran = topology("export", "--with-users", "--password-hashes", str(hashes), "--publisher-topic", "orders.*")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert {user["name"]: user["password_hash"] for user in document["users"]} == {
        f"{namespace}-host": given,
        f"{namespace}-worker": "",
        f"{namespace}-publisher": "",
        f"{namespace}-operator": "",
    }
    assert r"^(orders\.[^.]+)$" in {row["write"] for row in document["topic_permissions"]}
    assert f"{namespace}-worker" in ran.err, "whoever has no password is told"
    path = tmp_path / "definitions.json"
    path.write_text(json.dumps(plain))
    managed_node.ctl("import_definitions", str(path))
    assert topology("plan").code == 0


def test_export_for_a_release_needs_no_broker(alone: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCKBOT_BROKER_URL", f"amqp://guest:{_CANARY}@127.0.0.1:{free_port()}/")
    ran = alone("topology", "export", "--server-version", "4.1.0")
    assert ran.code == 0
    document = json.loads(ran.out)
    limits = {queue["name"]: queue["arguments"]["x-delivery-limit"] for queue in document["queues"]}
    assert limits["rockbot.agent.assistant.dlq"] == 1_000_000
    assert _CANARY not in ran.out + ran.err


def test_the_roles_are_printed_as_commands_or_as_json(
    alone: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCKBOT_BROKER_URL", f"amqp://guest:{_CANARY}@127.0.0.1/")
    monkeypatch.setenv("ROCKBOT_TRUST__USERS", '{"shop": "publisher"}')
    ran = alone("topology", "roles")
    assert "rabbitmqctl set_permissions -p / shop" in ran.out
    (role,) = alone("topology", "roles", "--json").lines
    assert (role["user"], role["role"], role["write"]) == ("shop", "publisher", "^rockbot$")
    assert _CANARY not in ran.out + ran.err


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "no JSON"), ("[]", "object of user names"), (json.dumps({"rockbot-host": _CANARY}), "no password hash")],
)
def test_a_wrong_file_of_hashes_is_told_without_its_content(
    alone: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, told: str
) -> None:
    monkeypatch.setenv("ROCKBOT_BROKER_URL", "amqp://127.0.0.1/")
    path = tmp_path / "hashes.json"
    path.write_text(content)
    options = ("--server-version", "4.1", "--with-users", "--password-hashes", str(path))
    ran = alone("topology", "export", *options)
    assert ran.code == 2
    assert told in " ".join(ran.err.split())
    assert _CANARY not in ran.out + ran.err


def test_without_a_broker_there_is_nothing_to_compare(alone: Callable[..., Ran]) -> None:
    ran = alone("topology", "plan")
    assert ran.code == 3
    assert "--broker amqp://" in ran.err


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize("command", [("plan",), ("apply",), ("prune", "--yes"), ("export",)])
@pytest.mark.rabbitmq
def test_no_error_shows_a_password(
    managed_node: RabbitNode,
    alone: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: tuple[str, ...],
    debug: tuple[str, ...],
) -> None:
    caplog.set_level(logging.DEBUG)
    nobody = free_port()
    trials = [
        (f"amqp://guest:{_CANARY}@127.0.0.1:{managed_node.port}/", None),
        (f"amqp://guest:{_CANARY}@127.0.0.1:{managed_node.port}/nowhere", None),
        (managed_node.url, f"http://guest:{_CANARY}@127.0.0.1:{managed_node.management_port}"),
        (managed_node.url, f"http://guest:{_CANARY}@127.0.0.1:{nobody}"),
        (managed_node.url, f"http//guest:{_CANARY}@127.0.0.1"),
        (f"amqp://guest:{_CANARY}@127.0.0.1:bad/", None),
    ]
    for broker, management in trials:
        monkeypatch.setenv("ROCKBOT_BROKER_URL", broker)
        if management is not None:
            monkeypatch.setenv("ROCKBOT_BROKER__MANAGEMENT_URL", management)
        ran = alone("topology", *command, *debug)
        assert ran.code in (1, 3, 4), ran
        assert ran.err
        assert _CANARY not in ran.out + ran.err + caplog.text
        assert debug or len(ran.err.strip().splitlines()) == 1, ran.err


@pytest.mark.rabbitmq
def test_the_doctor_looks_at_the_broker_even_when_no_bus_can_be_opened_on_it(
    topology: Topology, alone: Callable[..., Ran], managed_node: RabbitNode, namespace: str
) -> None:
    topology("apply")
    healthy = {line["name"]: line for line in alone("doctor", "--json").lines}
    assert healthy["broker version"]["status"] == healthy["broker limits"]["status"] == "ok"
    assert healthy["broker consumers"]["status"] == "warn"

    async def spoil(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.exchange_delete(f"{namespace}.commands")
        await channel.declare_exchange(f"{namespace}.commands", aio_pika.ExchangeType.FANOUT, durable=True)

    _on_broker(managed_node, spoil)
    ran = alone("doctor", "--json")
    assert ran.code == 6
    found = {line["name"]: line for line in ran.lines}
    assert found["broker"]["status"] == "fail"
    assert found[f"exchange {namespace}.commands"]["detail"] == "is a fanout exchange, needed is topic"
