"""Letters carried out of a broker and back where large bodies lie aside and signatures are required."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from letters.scene import done

from rockbot.buses import make_bus
from rockbot.letters.models import Edit, ExportedLetter, LetterFilter, ReplayOptions
from rockbot.letters.service import LetterService
from rockbot.settings import Settings
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Verdict

pytestmark = pytest.mark.rabbitmq

ORDERS = WorkSubscription(name="orders", patterns=("order.#",))
LARGE = b'{"note": "' + b"x" * 100_000 + b'"}'


class Shop:
    """Refuses everything until it is open."""

    def __init__(self) -> None:
        self.open = False
        self.refused = 0
        self.sold: dict[str, bytes] = {}

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        if not self.open:
            self.refused += 1
            return DeadLetter(reason="closed")
        self.sold[envelope.message_id] = envelope.body
        return Ack()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.sold) + self.refused < count:
                await asyncio.sleep(0.01)


@pytest.fixture
def settings(amqp_url: str, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "broker_url": amqp_url,
            "namespace": f"carry{uuid.uuid4().hex[:8]}",
            "artifacts": {"folder": tmp_path / "artifacts", "threshold_bytes": 1000},
            "signing": {"key": "k1", "keys": {"k1": "s" * 40}, "require": ["order.#"]},
        }
    )


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[MessageBus]:
    bus = make_bus(settings, clock=SystemClock(), ids=RandomIds(), work=[ORDERS])
    await bus.open()
    await bus.declare([ORDERS])
    yield bus
    await bus.close()


@pytest.fixture
async def desk(bus: MessageBus, settings: Settings) -> AsyncIterator[LetterService]:
    clock = SystemClock()
    store = MemoryStateStore(clock)
    await store.open()
    yield LetterService(
        letters=bus.dead_letters,
        publisher=bus.publisher,
        store=store,
        clock=clock,
        ids=RandomIds(),
        owner="test",
        namespace=settings.namespace,
        source="test",
    )
    await store.close()


async def _die(bus: MessageBus, shop: Shop, bodies: dict[str, bytes]) -> None:
    await bus.subscriber.subscribe(ORDERS, shop)
    for name, body in bodies.items():
        await bus.publisher.publish(MessageEnvelope(topic="order.new", body=body, message_id=name, type="shop.order"))
    await shop.until(len(bodies))
    shop.open, shop.refused = True, 0


async def test_exported_letters_outlive_their_artifacts_and_keep_valid_signatures(
    bus: MessageBus, desk: LetterService, tmp_path: Path
) -> None:
    shop = Shop()
    await _die(bus, shop, {"large": LARGE, "small": b"{}", "binary": b"\xff\x00\xfe"})
    async with asyncio.timeout(60):
        while (await desk.find(LetterFilter(queue="orders"))).total < 3:
            await asyncio.sleep(0.01)
    lines = [line.model_dump_json() async for line in desk.export(LetterFilter(queue="orders"))]
    assert (await done(desk.purge("orders", expect=3, actor="me", reason="carried away"))).worked == 3
    shutil.rmtree(tmp_path / "artifacts")

    async def carried() -> AsyncIterator[ExportedLetter]:
        for line in lines:
            yield ExportedLetter.model_validate_json(line)

    assert (await done(desk.load(carried(), actor="me"))).worked == 3
    assert any((tmp_path / "artifacts").rglob("*")), "the large body lies aside again"
    sent = await done(desk.replay(LetterFilter(queue="orders"), ReplayOptions(), actor="me"))
    assert (sent.worked, sent.refusals) == (3, 0)
    await shop.until(3)
    assert shop.sold == {"large": LARGE, "small": b"{}", "binary": b"\xff\x00\xfe"}
    assert (await desk.find(LetterFilter())).total == 0


async def test_a_mended_letter_is_signed_anew_and_taken_where_signatures_are_required(
    bus: MessageBus, desk: LetterService
) -> None:
    shop = Shop()
    await _die(bus, shop, {"large": LARGE})
    async with asyncio.timeout(60):
        while (await desk.find(LetterFilter(queue="orders"))).total < 1:
            await asyncio.sleep(0.01)
    mended = LARGE.decode().replace("x", "y")
    await desk.edit("orders", "large", Edit(body=mended), actor="me")
    await shop.until(1)
    assert shop.sold == {"large": mended.encode()}
    assert (await desk.find(LetterFilter(queue="orders"))).total == 0
    (original,) = (await desk.find(LetterFilter(queue="discarded"))).letters
    assert (original.id, original.discarded_from) == ("large", "orders")
    assert original.discarded_reason == "edited and sent on by me"
    assert (await desk.letter("discarded", "large")).body_bytes == LARGE
