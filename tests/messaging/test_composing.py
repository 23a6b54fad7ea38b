"""Envelopes from a topic and something to say."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from rockbot.events.tasks import AgentTask
from rockbot_messaging import connect
from rockbot_messaging.composing import outgoing
from rockbot_messaging.connecting import bus_at
from rockbot_messaging.errors import BrokerUnreachable, Closed, InvalidTopic
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.signing import Signer
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder, SequenceIds


class Order(BaseModel):
    type_name: ClassVar[str] = "shop.order"
    items: list[str]


@pytest.mark.parametrize(
    ("body", "raw", "content_type"),
    [
        (b'{"a": 1}', b'{"a": 1}', "application/json"),
        (b"\xff\xfe", b"\xff\xfe", "application/octet-stream"),
        ('{"a": 1}', b'{"a": 1}', "application/json"),
        ("Grüße", "Grüße".encode(), "text/plain; charset=utf-8"),
        ({"a": "ü"}, '{"a":"ü"}'.encode(), "application/json"),
        ([1, 2], b"[1,2]", "application/json"),
        (Order(items=["tea"]), b'{"items":["tea"]}', "application/json"),
    ],
)
def test_a_body_of_any_kind_is_written_with_its_media_type(body: Any, raw: bytes, content_type: str) -> None:
    made = outgoing("order.created", body)
    assert (made.body, made.content_type) == (raw, content_type)


def test_a_model_brings_its_type_and_what_is_given_goes_first() -> None:
    assert outgoing("order.created", Order(items=[])).type == "shop.order"
    assert outgoing("agent.task", AgentTask(input="hi")).type == AgentTask.type_name
    assert outgoing("order.created", Order(items=[]), type="shop.other").type == "shop.other"
    assert outgoing("order.created", {}).type == ""


def test_id_instant_and_deadline_come_from_the_given_sources() -> None:
    clock, ids = FakeClock(), SequenceIds()
    made = outgoing("order.created", b"", source="shop", timeout=30, clock=clock, ids=ids)
    assert (made.source, made.timestamp_ms) == ("shop", clock.now_ms())
    assert made.deadline_ms == clock.now_ms() + 30_000
    assert outgoing("order.created", b"", ids=ids).message_id != made.message_id
    assert outgoing("order.created", b"", message_id="order-7").message_id == "order-7"
    assert outgoing("order.created", b"", tenant="acme", conversation_id="c").tenant == "acme"


def test_what_could_not_be_sent_is_refused_when_it_is_made() -> None:
    with pytest.raises(InvalidTopic):
        outgoing("not a topic", b"")
    with pytest.raises(ValueError, match="rockbot-tenant"):
        outgoing("order.created", b"", headers={"rockbot-tenant": "acme"})
    with pytest.raises(ValueError, match="cannot be sent"):
        outgoing("order.created", {"a": object()})
    with pytest.raises(ValueError, match="timeout"):
        outgoing("order.created", b"", timeout=0)
    with pytest.raises(TypeError, match="colour"):
        outgoing("order.created", b"", colour="red")


async def test_connecting_opens_a_bus_for_the_length_of_a_block() -> None:
    taker = Recorder()
    async with connect("memory://", namespace="shop") as bus:
        consumption = await bus.subscriber.subscribe(WorkSubscription(name="orders", patterns=("order.#",)), taker)
        assert consumption.address == "shop.orders"
        await bus.publisher.publish(outgoing("order.created", b""))
        await taker.wait_for(1)
    with pytest.raises(Closed):
        await bus.publisher.publish(outgoing("order.created", b""))


async def test_a_connection_with_a_signer_signs() -> None:
    signer = Signer({"k1": "a secret of more than 32 characters!"}, active="k1")
    taker = Recorder()
    async with connect("memory://", signer=signer) as bus:
        await bus.subscriber.subscribe(WorkSubscription(name="orders", patterns=("order.#",)), taker)
        await bus.publisher.publish(outgoing("order.created", b""))
        (received,) = await taker.wait_for(1)
    assert signer.verify(received) == "k1"


async def test_an_address_that_nobody_serves_is_told_without_its_password() -> None:
    with pytest.raises(BrokerUnreachable) as caught:
        async with connect("amqp://me:hunter2@127.0.0.1:1/", connect_timeout=0.5):
            pass
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:hunter2@host/", "amqp://me:hunter2@[/", "hunter2", "amqp://"])
def test_an_address_that_is_none_is_told_without_what_it_says(url: str) -> None:
    with pytest.raises(ValueError, match="amqp") as caught:
        bus_at(url)
    assert "hunter2" not in str(caught.value)


def test_an_address_in_memory_is_a_broker_of_its_own() -> None:
    one, other = bus_at("memory://"), bus_at("memory://")
    assert isinstance(one, MemoryBus)
    assert isinstance(other, MemoryBus)
    assert one.broker is not other.broker
