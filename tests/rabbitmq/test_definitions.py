"""Definitions: a broker that imports them has what is wanted, and users that can do nothing until they have a password."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import aiormq
import pytest
from nodes.rabbitmq import RabbitNode

from rockbot.operators.broker_access import BrokerAccess
from rockbot.settings import load
from rockbot_messaging.rabbitmq.definitions import User, check_hash, definitions
from rockbot_messaging.rabbitmq.policies import Limits, wanted_policies
from rockbot_messaging.rabbitmq.roles import operator
from rockbot_messaging.rabbitmq.topology import Names, Queue, Topology, shared


def _hash(password: str) -> str:
    return base64.b64encode(b"salt" + hashlib.sha256(b"salt" + password.encode()).digest()).decode()


@pytest.fixture(scope="module")
def fresh_node() -> Iterator[RabbitNode]:
    """A node that nothing was declared on."""
    node = RabbitNode(plugins=("rabbitmq_management",))
    node.start()
    yield node
    node.stop()


@pytest.mark.rabbitmq
async def test_what_was_exported_is_imported_without_a_difference(fresh_node: RabbitNode, tmp_path: Path) -> None:
    settings = load(
        {
            "broker_url": fresh_node.url,
            "broker": {"management_url": fresh_node.management_url},
            "state_url": f"sqlite:///{tmp_path}/state.db",
        }
    )
    async with BrokerAccess(settings) as access:
        assert (await access.plan()).steps, "nothing is there yet"
        roles = access.roles()
        users = [User(name, role, _hash("knows") if role.name == "publisher" else "") for name, role in roles]
        document = definitions(
            version=(version := await access.version()),
            vhost="/",
            topology=access.wanted,
            policies=access.policies(version),
            users=users,
        )
        path = tmp_path / "definitions.json"
        path.write_text(json.dumps(document))
        fresh_node.ctl("import_definitions", str(path))
        assert (await access.plan()).steps == ()
    for user in users:
        (row,) = json.loads(fresh_node.ctl("list_user_permissions", user.name, "--formatter", "json"))
        assert (row["configure"], row["write"], row["read"]) == (user.role.configure, user.role.write, user.role.read)
    topics = json.loads(fresh_node.ctl("list_topic_permissions", "--formatter", "json"))
    assert {(row["user"], row["exchange"], row["write"], row["read"]) for row in topics} == {
        (user.name, topic.exchange, topic.write, topic.read) for user in users for topic in user.role.topics
    }
    await (await aio_pika.connect(fresh_node.url_of("rockbot-publisher", "knows"))).close()
    for password in ("", "rockbot-host"):
        with pytest.raises(aiormq.exceptions.AMQPError):
            await aio_pika.connect(fresh_node.url_of("rockbot-host", password))


def test_nothing_transient_and_no_password_is_written() -> None:
    names = Names("ns")
    table = shared(names) + Topology(queues=(Queue("ns.reply.1", transient=True),))
    document = definitions(version="4.1.0", vhost="v", topology=table, users=[User("person", operator(names))])
    assert "ns.reply.1" not in {queue["name"] for queue in document["queues"]}
    (user,) = document["users"]
    assert (user["password_hash"], user["tags"]) == ("", ["management"])
    assert {row["vhost"] for part in ("queues", "exchanges", "bindings", "permissions") for row in document[part]} == {
        "v"
    }


def test_users_are_written_only_when_there_are_some() -> None:
    policies = wanted_policies(Names("ns"), Limits(), version=(4, 1))
    document = definitions(version="4.1.0", vhost="/", topology=Topology(), policies=policies)
    assert {"users", "permissions", "topic_permissions"} & set(document) == set()
    assert document["policies"][0]["definition"]["consumer-timeout"] == 1_800_000


@pytest.mark.parametrize("text", ["", "secret", base64.b64encode(b"too short").decode(), "é"])
def test_what_is_no_password_hash_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="hash_password") as caught:
        check_hash(text)
    assert not text or text not in str(caught.value)


def test_a_password_hash_passes() -> None:
    assert check_hash(_hash("knows")) == _hash("knows")
