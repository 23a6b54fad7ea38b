"""Cases: what was put into an envelope comes out of it."""

from __future__ import annotations

import dataclasses

import pytest

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.identity import foreign_id
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing.harness import Harness, message
from rockbot_messaging.testing.recorder import Recorder

__all__ = ["CarriageCases"]

_WORK = WorkSubscription(name="work", patterns=("job.#",))


class CarriageCases:
    """Bodies, headers, fields, and messages of clients that know nothing of ours."""

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x00\xff\xfe not json", "käse 🧀 ﷽".encode(), bytes(range(256)) * 4096],
        ids=["empty", "bytes that are no text", "Unicode", "1 MiB"],
    )
    async def test_a_body_arrives_as_it_was(self, harness: Harness, body: bytes) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        await bus.publisher.publish(message("job.one", body))
        (received,) = await taker.wait_for(1)
        assert received.body == body

    async def test_every_field_arrives_as_it_was(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        at = harness.clock.now_ms()
        sent = message(
            "job.full",
            b'{"a": 1}',
            type="contract.full",
            source="contract@käse",
            timestamp_ms=at,
            content_type="text/plain; charset=utf-8",
            tenant="acme",
            schema_version=2,
            correlation_id="correlation-ü",
            reply_to="somebody.elses.queue",
            destination="assistant",
            causation_id="cause-1",
            conversation_id="conversation/1 with any characters",
            root_task_id="root-1",
            deadline_ms=at + 86_400_123,
            attempt=3,
            handbacks=2,
            due_ms=at - 1,
            first_failed_ms=at - 60_000,
            claim="sha256:00ff;70000",
            signature="key-1:AAAA",
            foreign_id="order-7",
            return_address=ReturnAddress("agent.step.assistant", 'opaque "token" ü\n,;:'),
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            tracestate="rojo=00f067aa0ba902b7",
            history=("first line, with: anything; in 'it'", "second ü"),
            headers={"colour": "red"},
        )
        await bus.publisher.publish(sent)
        (received,) = await taker.wait_for(1)
        precision = harness.features.timestamp_precision_ms
        assert received.timestamp_ms == at // precision * precision
        assert received.user_id == harness.features.user_id
        assert received.redelivered is False
        for field in dataclasses.fields(MessageEnvelope):
            if field.name not in ("timestamp_ms", "user_id", "redelivered", "headers"):
                assert getattr(received, field.name) == getattr(sent, field.name), field.name
        assert dict(received.headers) == {"colour": "red"}

    async def test_fields_that_were_not_set_arrive_not_set(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        sent = message("job.plain", source="")
        await bus.publisher.publish(sent)
        (received,) = await taker.wait_for(1)
        assert received.replace(user_id=None) == sent

    async def test_headers_keep_their_types(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        headers = {
            "text": "plain",
            "empty": "",
            "unicode-käse": "Grüße 🧀",
            "long": "y" * 5000,
            "zero": 0,
            "negative": -1,
            "wide": 2**40 + 1,
            "widest": 2**63 - 1,
            "narrowest": -(2**63),
            "float": 1.5,
            "whole-float": 2.0,
            "true": True,
            "false": False,
            "none": None,
        }
        await bus.publisher.publish(message("job.headers", headers=headers))
        (received,) = await taker.wait_for(1)
        assert dict(received.headers) == headers
        assert {name: type(value) for name, value in received.headers.items()} == {
            name: type(value) for name, value in headers.items()
        }

    async def test_headers_with_reserved_names_do_not_travel(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        headers = {"x-death": "1", "x-delay": 5, "rockbot-tenant": "intruder", "rockbot-made-up": "1", "kept": "yes"}
        await bus.publisher.publish(message("job.headers", tenant="acme", headers=headers))
        (received,) = await taker.wait_for(1)
        assert dict(received.headers) == {"kept": "yes"}
        assert received.tenant == "acme"

    async def test_what_the_sender_claims_about_its_user_does_not_travel(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        await bus.publisher.publish(message("job.claim", user_id="root", redelivered=True))
        (received,) = await taker.wait_for(1)
        assert received.user_id == harness.features.user_id
        assert received.redelivered is False

    async def test_a_body_and_a_topic_are_enough_for_a_foreign_message(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        await harness.publish_foreign("job.foreign", b'{"input": "hello"}')
        await harness.publish_foreign("job.foreign", b'{"input": "hello"}')
        received, other = await taker.wait_for(2)
        assert (received.topic, received.body, received.type) == ("job.foreign", b'{"input": "hello"}', "")
        assert (received.attempt, received.handbacks, received.tenant) == (1, 0, "default")
        assert (received.reply_to, received.correlation_id, received.return_address) == (None, None, None)
        assert received.user_id is None
        assert len({received.message_id, other.message_id, ""}) == 3

    async def test_a_foreign_message_keeps_its_identity_when_it_is_sent_again(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        for _ in range(2):
            await harness.publish_foreign("job.foreign", b"{}", message_id="order-7", app_id="shop")
            await harness.publish_foreign("job.foreign", b"{}", reply_to="their.queue", correlation_id="7")
        named = foreign_id(
            publisher="shop", topic="job.foreign", message_id="order-7", reply_to=None, correlation_id=None, body=b"{}"
        )
        nameless = foreign_id(
            publisher=None, topic="job.foreign", message_id=None, reply_to="their.queue", correlation_id="7", body=b"{}"
        )
        await taker.wait_for(4)
        assert named
        assert nameless
        assert sorted(taker.ids) == sorted([named, nameless] * 2)

    async def test_equal_foreign_messages_of_two_tenants_are_two_messages(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        for tenant in ("default", "acme", "umbrella"):
            for given in ({"message_id": "order-7"}, {"reply_to": "their.queue", "correlation_id": "7"}):
                await harness.publish_foreign("job.foreign", b"{}", headers={"rockbot-tenant": tenant}, **given)
        await taker.wait_for(6)
        expected = foreign_id(
            publisher=None,
            topic="job.foreign",
            message_id="order-7",
            reply_to=None,
            correlation_id=None,
            body=b"{}",
            tenant="acme",
        )
        assert expected in taker.ids
        assert len(set(taker.ids)) == 6

    async def test_a_foreign_message_brings_its_own_properties(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = await _taking(bus)
        await harness.publish_foreign(
            "job.foreign",
            b"hello",
            reply_to="their.queue",
            correlation_id="7",
            content_type="text/plain",
            app_id="shop",
            headers={"colour": "red", "x-theirs": "hidden"},
        )
        (received,) = await taker.wait_for(1)
        assert (received.reply_to, received.correlation_id) == ("their.queue", "7")
        assert (received.content_type, received.source) == ("text/plain", "shop")
        assert dict(received.headers) == {"colour": "red"}


async def _taking(bus: MessageBus) -> Recorder:
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    return taker
