"""The index: recorded as letters die, compared with the broker, rebuilt from nothing, and what a store's trouble costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from letters.scene import ORDERS, Scene, done, first_step

from rockbot.letters.index import SYSTEM, LetterIndex, Scanned, lease_key, row_key
from rockbot.letters.models import LetterFilter, ReplayOptions
from rockbot.letters.recording import LetterRecorder
from rockbot.letters.service import LetterService
from rockbot.state.keys import key_parts, prefix
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateUnavailable, Write
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import DeadLetterQueue, Failure
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.settlement import Bury, Delay
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import DeadLetter


async def _wipe(scene: Scene, *spaces: str) -> None:
    for space in spaces:
        for entry in (await scene.store.list(prefix(SYSTEM, space), limit=10_000)).entries:
            await scene.store.delete(entry.key)


async def test_a_recorded_index_is_the_one_that_a_scan_makes_from_nothing(scene: Scene) -> None:
    scene.recorder.start()
    await scene.bury_many(
        5, told=True, reason="bad " * 300 + "\u20ac" * 2000, traceparent="00-a-b-01", conversation_id="c"
    )
    await scene.bury("letter-x", queue="bills", told=True, body=b"\xff" * 900)
    await scene.recorder.flushed()
    recorded = await scene.indexed("orders"), await scene.indexed("bills")
    assert [len(rows) for rows in recorded] == [5, 1]
    await _wipe(scene, "letter", "letter-scan")
    last = await done(scene.desk.scan())
    assert (last.seen, last.worked, last.total) == (6, 6, 6)
    assert (await scene.indexed("orders"), await scene.indexed("bills")) == recorded
    assert (await done(scene.desk.scan("orders"))).worked == 0


async def test_what_a_host_buries_is_recorded_under_the_key_that_a_scan_would_use(scene: Scene) -> None:
    """A delivery that really dies, observed as the host observes it."""
    died = asyncio.Event()
    told: list[Any] = []

    async def handle(envelope: MessageEnvelope) -> DeadLetter:
        died.set()
        return DeadLetter(reason="never like this", error_type="Bad", handler="link")

    await scene.bus.subscriber.subscribe(ORDERS, handle)
    sent = MessageEnvelope(topic="order.created", body=b"{}", message_id="order-1", type="shop.order")
    await scene.bus.publisher.publish(sent)
    await died.wait()
    async with asyncio.timeout(60):
        while not (letters := await scene.bus.dead_letters.letters("orders")):
            await asyncio.sleep(0)
    scene.recorder.start()
    scene.recorder.carried_out("orders", Bury(letters[0].envelope, letters[0].failure))
    await scene.recorder.flushed()
    recorded = await scene.indexed("orders")
    assert (await done(scene.desk.scan("orders"))).worked == 0
    assert await scene.indexed("orders") == recorded
    assert not told


async def test_a_scan_removes_the_rows_of_letters_that_others_took_away(scene: Scene) -> None:
    await scene.bury_many(3)
    await scene.rows()
    await scene.bus.dead_letters.replay("orders", "letter-0001")
    assert [row.id for row in await scene.rows()] == ["letter-0000", "letter-0002"]


async def test_a_row_that_is_written_while_a_scan_goes_on_stays(scene: Scene) -> None:
    """Its letter died after the walk began: the walk cannot meet it, and it must not be taken for gone."""
    await scene.bury_many(600)
    steps = scene.desk.scan("orders")
    await anext(aiter(steps))
    late = await scene.bury("late-1")
    await LetterIndex(scene.store).write([LetterIndex(scene.store).write_of(late, "orders")])
    async for _ in steps:
        pass
    assert len(await scene.indexed("orders")) == 601


async def test_leaving_a_scan_removes_nothing(scene: Scene) -> None:
    await scene.bury_many(1200)
    await done(scene.desk.scan("orders"))
    step = await first_step(scene.desk.scan("orders"))
    assert step.seen == 500
    assert len(await scene.indexed("orders")) == 1200


async def test_a_queue_that_is_known_and_not_declared_yet_is_empty(scene: Scene) -> None:
    """A provider lists the queues of every subscription it was told of, whether anybody has consumed them or not."""

    class Expecting:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def queues(self) -> list[DeadLetterQueue]:
            return [DeadLetterQueue(name="rockbot.new.dlq", subscription="new", depth=0), *await self._inner.queues()]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    await scene.bury("letter-1")
    stale = scene.clock.now_ms()
    await scene.store.put(row_key("new", stale, "gone-1"), b"{}")
    desk = LetterService(
        letters=Expecting(scene.bus.dead_letters),  # type: ignore[arg-type]
        publisher=scene.bus.publisher,
        store=scene.store,
        clock=scene.clock,
        ids=scene.ids,
        owner="me",
        namespace="rockbot",
        source="tests",
    )
    assert [row.id for row in await scene.rows(desk)] == ["letter-1"]
    assert await scene.indexed("new") == []
    assert (await done(desk.scan())).seen == 1
    assert [line.id async for line in desk.export(LetterFilter())] == ["letter-1"]
    assert (await done(desk.replay(LetterFilter(), ReplayOptions(), actor="me"))).worked == 1


async def test_equal_counts_are_not_scanned_again(scene: Scene) -> None:
    await scene.bury_many(3)
    await scene.rows()
    first = (await scene.desk.queues())[0].scanned_ms
    scene.clock.advance(60)
    await scene.rows()
    assert (await scene.desk.queues())[0].scanned_ms == first
    await scene.bury("another")
    assert len(await scene.rows()) == 4
    assert (await scene.desk.queues())[0].scanned_ms == scene.clock.now_ms()


async def test_a_queue_whose_scan_takes_long_is_not_scanned_with_every_question(scene: Scene) -> None:
    await scene.bury_many(1001, seconds=0)
    index = LetterIndex(scene.store)
    await scene.rows_of("orders")
    await index.note_scanned("orders", Scanned(scene.clock.now_ms(), took_ms=30_000))
    await scene.bury("newcomer")
    assert await scene.rows_of("orders") == 1001
    scene.clock.advance(301)
    assert await scene.rows_of("orders") == 1002


async def test_a_garbled_row_is_mended_by_the_next_scan(scene: Scene) -> None:
    await scene.bury("letter-1")
    (row,) = await scene.rows()
    await scene.store.put(row_key("orders", row.at_ms, "letter-1"), b"\xffgarbage")
    assert [each.id for each in await scene.rows(queue="orders")] == [""]
    await done(scene.desk.scan("orders"))
    assert await scene.rows() == (row,)


async def test_a_scan_of_another_process_is_waited_for_and_not_doubled(scene: Scene) -> None:
    await scene.bury_many(3)
    lease = await scene.store.acquire_lease(lease_key("orders"), owner="another", ttl=60)
    assert lease
    await scene.desk.scanner.run_once()
    assert await scene.indexed("orders") == [], "the periodic scan waited instead of leaving it to the other"
    assert scene.naps == []
    assert len(await scene.rows(queue="orders")) == 0
    assert sum(scene.naps) == pytest.approx(30), "the question did not wait for the other's scan"
    await scene.store.release_lease(lease)
    assert len(await scene.rows(queue="orders")) == 3


def test_rows_lie_in_the_space_of_the_system_and_no_id_leads_out_of_it() -> None:
    made = row_key("orders", 1_700_000_000_000, "../../tenant/x")
    assert key_parts(made) == (SYSTEM, "letter", "orders", "001700000000000", "../../tenant/x")
    assert made.count("/") == 4
    assert row_key("q", -5, "a") < row_key("q", 7, "a") < row_key("q", 10**20, "a")
    assert row_key("q", 1, "") and row_key("q", 1, "\ud800")


# -- the recorder


class Flaky:
    """A memory store that can be away."""

    def __init__(self, inner: MemoryStateStore) -> None:
        self.inner = inner
        self.away = False
        self.tries = 0

    async def write(self, writes: Sequence[Write]) -> None:
        self.tries += 1
        if self.away:
            raise StateUnavailable("the disk is gone")
        await self.inner.write(writes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
async def flaky() -> AsyncIterator[Flaky]:
    inner = MemoryStateStore(FakeClock())
    await inner.open()
    yield Flaky(inner)
    await inner.close()


def _burial(id: str, error: str = "ValueError") -> Bury:
    envelope = MessageEnvelope(topic="order.x", body=b"{}", message_id=id, type="t")
    return Bury(envelope, Failure(reason="bad", queue="orders", topic="order.x", at_ms=5, error_type=error))


async def _count(store: Any, queue: str = "orders") -> int:
    return sum([len(page) async for page in LetterIndex(store).pages(queue)])


async def test_deaths_are_counted_by_subscription_and_error(flaky: Flaky) -> None:
    measures = Counters()
    recorder = LetterRecorder(flaky, measures=measures)  # type: ignore[arg-type]
    recorder.carried_out("orders", _burial("a"))
    recorder.carried_out("orders", _burial("b", error=""))
    recorder.carried_out("orders", Delay(5, _burial("c").envelope))
    assert measures.value(Names.DEAD_LETTERS, subscription="orders", error="ValueError") == 1
    assert measures.value(Names.DEAD_LETTERS, subscription="orders", error="none") == 1
    assert len(measures.snapshot()) == 2


async def test_rows_wait_for_a_store_that_is_away_and_the_teller_does_not(flaky: Flaky) -> None:
    napping, awake = asyncio.Event(), asyncio.Event()

    async def nap(_: float) -> None:
        napping.set()
        await awake.wait()

    recorder = LetterRecorder(flaky, sleep=nap)  # type: ignore[arg-type]
    flaky.away = True
    recorder.start()
    for number in range(450):
        recorder.carried_out("orders", _burial(f"m{number}"))
    async with asyncio.timeout(60):
        await napping.wait()
    flaky.away = False
    awake.set()
    await recorder.flushed()
    assert await _count(flaky) == 450
    await recorder.close()


async def test_what_does_not_fit_the_buffer_leads_to_a_scan(flaky: Flaky) -> None:
    await LetterIndex(flaky).note_scanned("orders", Scanned(1))  # type: ignore[arg-type]
    recorder = LetterRecorder(flaky, buffer=3)  # type: ignore[arg-type]
    for number in range(5):
        recorder.carried_out("orders", _burial(f"m{number}"))
    recorder.start()
    await recorder.flushed()
    assert await _count(flaky) == 3
    assert await LetterIndex(flaky).scanned("orders") is None  # type: ignore[arg-type]
    await recorder.close()
    await recorder.close()


async def test_closing_writes_what_is_left(flaky: Flaky) -> None:
    recorder = LetterRecorder(flaky)  # type: ignore[arg-type]
    recorder.start()
    recorder.carried_out("orders", _burial("m"))
    await recorder.close()
    assert await _count(flaky) == 1


async def test_a_letter_that_no_row_can_be_made_of_harms_nobody(flaky: Flaky) -> None:
    recorder = LetterRecorder(flaky)  # type: ignore[arg-type]
    recorder.start()
    recorder.carried_out("", _burial("m"))  # no key has an empty part
    recorder.carried_out("orders", _burial("n"))
    await recorder.flushed()
    assert await _count(flaky) == 1
    await recorder.close()


# -- the periodic look


async def test_the_periodic_look_scans_what_differs_and_sets_the_gauges(scene: Scene) -> None:
    await scene.bury_many(3)
    scene.clock.advance(57)
    await scene.desk.scanner.run_once()
    assert len(await scene.indexed("orders")) == 3
    assert scene.measures.value(Names.DEAD_LETTER_DEPTH, queue="orders") == 3
    assert scene.measures.value(Names.DEAD_LETTER_AGE, queue="orders") == 60
    await done(scene.desk.purge("orders", expect=3, actor="me", reason="x"))
    await scene.desk.scanner.run_once()
    assert scene.measures.value(Names.DEAD_LETTER_DEPTH, queue="orders") == 0
    assert scene.measures.value(Names.DEAD_LETTER_AGE, queue="orders") == 0


async def test_once_a_day_equal_counts_are_not_trusted(scene: Scene) -> None:
    await scene.bury_many(2)
    await scene.rows()
    await scene.bus.dead_letters.replay("orders", "letter-0000")
    await scene.bury("newcomer")
    await scene.desk.scanner.run_once()
    assert "letter-0000" in {row.id for row in await scene.rows()}, "then this test proves nothing"
    scene.clock.advance(86_400)
    await scene.desk.scanner.run_once()
    assert {row.id for row in await scene.rows()} == {"letter-0001", "newcomer"}


async def test_letters_are_kept_for_ever_unless_the_settings_say_otherwise(scene: Scene) -> None:
    await scene.bury("old-letter")
    await scene.bury("old-bill", queue="bills")
    scene.clock.advance(10 * 86_400)
    await scene.bury("young-letter")
    await scene.desk.scanner.run_once()
    assert len(await scene.ids_in()) == 2
    keeper = scene.service(keep_days=7, keep_days_by_queue={"rockbot.bills.dlq": 0})
    await keeper.scanner.run_once()
    assert await scene.ids_in() == ["young-letter"]
    assert await scene.ids_in("bills") == ["old-bill"]
    (entry,) = await scene.desk.audit()
    assert (entry.action, entry.count, entry.letters, entry.queue) == ("expire", 1, ("old-letter",), "orders")
    assert [row.id for row in await scene.rows(queue="orders")] == ["young-letter"]
    assert scene.measures.value(Names.DEAD_LETTER_DEPTH, queue="orders") == 1
    walked = (await scene.desk.queues())[0].scanned_ms
    await keeper.scanner.run_once()
    assert (await scene.desk.queues())[0].scanned_ms == walked
