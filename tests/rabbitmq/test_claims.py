"""The conformance suite with nearly every body lying aside and everything signed, against a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, final

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging.artifacts import MemoryArtifacts, Reference
from rockbot_messaging.claims import ClaimCheck
from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.signing import Signer, Signing
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.contract import BusContract
from rockbot_messaging.testing.harness import DEFAULT_BODY_LIMIT, buried, message
from rockbot_messaging.verdicts import DeadLetter, Retry

pytestmark = pytest.mark.rabbitmq

_SIGNER = Signer({"k1": "a secret of more than 32 characters!"}, active="k1")


@final
class LayeredHarness:
    """`RabbitHarness` whose connections have the layers of a host."""

    def __init__(self, inner: RabbitHarness, signer: Signer) -> None:
        self.inner = inner
        self.signer = signer
        self.artifacts = MemoryArtifacts()
        self.features = inner.features
        self.clock = inner.clock
        self.publish_foreign = inner.publish_foreign
        self.publish_garbage = inner.publish_garbage
        self.advance = inner.advance

    async def connect(self, *, max_body_bytes: int = DEFAULT_BODY_LIMIT, require: tuple[str, ...] = ()) -> Any:
        bus = await self.inner.connect(max_body_bytes=max_body_bytes)
        claims = ClaimCheck(self.artifacts, threshold=10, max_body_bytes=max_body_bytes)
        return LayeredBus(bus, (claims, Signing(self.signer, require=require)), clock=self.clock)

    async def kill(self, bus: MessageBus) -> None:
        assert isinstance(bus, LayeredBus)
        await self.inner.kill(bus.inner)  # type: ignore[arg-type]  # it is the harness's own


class TestLayersOnRabbitMQ(BusContract):
    @pytest.fixture
    async def harness(self, amqp_url: str) -> AsyncIterator[LayeredHarness]:
        # The suite compares what was sent with what came, so nothing is signed here.
        inner = RabbitHarness(amqp_url)
        yield LayeredHarness(inner, Signer({"k1": "a secret of more than 32 characters!"}))
        await inner.close()


async def test_a_signed_and_claimed_message_survives_the_wire_its_retries_and_a_replay(harness: RabbitHarness) -> None:
    layered = LayeredHarness(harness, _SIGNER)
    bus, raw = await layered.connect(require=("job.#",)), await harness.connect()
    taker = Recorder([Retry(reason="once more"), DeadLetter(reason="no")])
    work = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=2, delays=(1,)))
    await bus.subscriber.subscribe(work, taker)
    await raw.declare([work])
    body = b"x" * 100_000
    sent = message(
        "job.large",
        body,
        timestamp_ms=1_700_000_000_123,
        correlation_id="",
        conversation_id="c/ü",
        deadline_ms=4_000_000_000_000,
        headers={"float": 2.0, "yes": True, "none": None, "wide": 2**40, "text": "käse", "x-mine": "does not travel"},
    )
    await bus.publisher.publish(sent)
    (letter,) = await buried(raw, "work", 1)
    assert (letter.envelope.body, letter.envelope.claim) == (b"", str(Reference.of(body)))
    assert (await bus.dead_letters.letter("work", letter.id)).envelope.body == body
    await bus.dead_letters.replay("work", letter.id)
    await taker.wait_finished(3)
    assert [len(one.body) for one in taker.envelopes] == [100_000] * 3
    assert {one.signature for one in taker.envelopes} == {_SIGNER.sign(sent).signature}
    await raw.publisher.publish(_SIGNER.sign(message("job.changed", b"small")).replace(body=b"other"))
    (refused,) = await buried(bus, "work", 1)
    assert "wrong" in refused.failure.reason
    await bus.dead_letters.replay("work", refused.id, body=b"a mended body that is large")
    await taker.wait_finished(4)
    assert taker.envelopes[3].body == b"a mended body that is large"
