"""One key, one message after another: arrivals, retries, dead letters, copies."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from inbox.office import Fails, Office, Story, order, ordered, until

from rockbot.errors import ConfigError
from rockbot.inbox import BlockedKey, BlockedKeys
from rockbot.inbox.line import Line, LineId, order_key
from rockbot.inbox.reader import Reader
from rockbot.state.keys import key as key_of
from rockbot.state.keys import prefix
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Names
from rockbot_messaging.memory import MemoryBroker
from rockbot_messaging.subscriptions import Ordered, WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

OpenOffice = Any


def _dead(name: str) -> Any:
    def answer(envelope: MessageEnvelope) -> Verdict:
        return DeadLetter(reason="no such article") if envelope.message_id == name else Ack()

    return answer


async def _letters(office: Office) -> list[str]:
    return [letter.id for letter in await office.bus.dead_letters.letters("orders")]


# -- order and parallelism


async def test_messages_of_a_key_are_handled_one_after_another_in_the_order_of_their_arrival(
    office: Office, story: Story
) -> None:
    names = [f"a{number}" for number in range(40)]
    assert await office.get(*names) == [Ack()] * 40
    await until(lambda: len(story.done) == 40)
    assert story.handled["a"] == story.begun["a"] == names
    assert not story.overlaps


async def test_messages_that_arrive_together_keep_the_order_of_their_delivery(office: Office, story: Story) -> None:
    names = [f"{key}{number}" for number in range(20) for key in "abc"]
    assert set(await asyncio.gather(*(office.receive(order(name)) for name in names))) == {Ack()}
    await until(lambda: len(story.done) == 60)
    for key in "abc":
        assert story.handled[key] == [f"{key}{number}" for number in range(20)]


async def test_fifty_keys_go_on_in_parallel_as_far_as_the_subscription_allows(office: Office, story: Story) -> None:
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    for number in range(3):
        for key in range(50):
            await office.receive(order(f"{key}-{number}", str(key)))
    await until(lambda: sum(story.running.values()) == 8)
    gate.set()
    await until(lambda: len(story.done) == 150)
    assert story.peak == 8
    assert not story.overlaps
    assert all(story.handled[str(key)] == [f"{key}-{number}" for number in range(3)] for key in range(50))


async def test_messages_without_a_key_and_those_with_one_share_what_may_run_at_once(
    open_office: OpenOffice, story: Story
) -> None:
    gate = asyncio.Event()

    async def hold(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = hold
    office = await open_office(subscription=ordered(concurrency=2))
    loose = [asyncio.ensure_future(office.receive(order(f"loose{number}", key=""))) for number in range(2)]
    await office.get("a1", "b1")
    await until(lambda: len(office.inboxes._inboxes["orders"]._tasks) == 2)
    gate.set()
    assert await asyncio.gather(*loose) == [Ack(), Ack()]
    await until(lambda: len(story.done) == 4)
    assert story.peak == 2


async def test_what_was_handled_while_the_store_was_away_for_longer_than_the_lease_is_not_handled_again(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    fails = Fails(store)
    office = await open_office(store=fails)

    def answer(envelope: MessageEnvelope) -> Verdict:
        fails.away = True
        return Ack()

    story.answer = answer
    await office.get("a1")
    await until(lambda: fails.refused)
    clock.advance(60)
    story.answer = None
    fails.away = False
    await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
    await office.inboxes.scan()
    assert story.begun["a"] == ["a1"]
    assert [_ async for _ in office.inboxes._inboxes["orders"]._shelf.lines("orders")] == []


async def test_a_long_line_leaves_room_for_others(open_office: OpenOffice, story: Story) -> None:
    office = await open_office(subscription=ordered(concurrency=1))
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    await office.get(*(f"a{number}" for number in range(100)), "b0")
    gate.set()
    await until(lambda: "b0" in story.done)
    assert len(story.handled["a"]) < 50


async def test_a_message_without_a_key_is_handled_at_once_and_its_verdict_is_the_brokers(
    office: Office, story: Story
) -> None:
    story.answer = lambda _: Retry(reason="later")
    assert await office.get("x", key="") == [Retry(reason="later")]
    assert story.begun[""] == ["x"]


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("conversation", "c"),
        ("correlation", "k"),
        ("topic", "order.made"),
        ("header:customer", "7"),
        ("header:nothing", None),
        ("header:empty", None),
        ("header:broken", None),
    ],
)
def test_the_key_is_what_the_order_says(by: str, key: str | None) -> None:
    headers = {"customer": 7, "empty": "", "broken": "\ud800"}
    envelope = order("m", "k", conversation_id="c", headers=headers)
    assert order_key(envelope, Ordered(by=by)) == key


def test_a_long_key_is_kept_short_and_apart_from_others() -> None:
    one, other = (order_key(order("m", "k" * 500 + end), Ordered(by="correlation")) for end in "ab")
    assert one != other
    assert one is not None
    assert len(one) == 64


def test_a_subscription_without_order_has_no_inbox(office: Office, story: Story) -> None:
    with pytest.raises(ConfigError, match="no order"):
        office.inboxes.receive(WorkSubscription(name="free", patterns=("x",)), story)


def test_a_line_of_a_newer_release_is_read() -> None:
    line = Line(head=3, next=9, owner="me", until_ms=5, token=7, blocked="m", reason="r", since_ms=1)
    assert Line.load(line.dump()[:-1] + b',"colour":"red"}') == line
    assert LineId.of(LineId("orders", "acme", "a/b").line) == LineId("orders", "acme", "a/b")


# -- retries


async def test_a_retry_holds_up_its_key_until_it_is_due_and_no_other(
    office: Office, story: Story, clock: FakeClock
) -> None:
    story.answer = lambda one: Retry(reason="busy") if one.message_id == "a1" and one.attempt == 1 else Ack()
    await office.get("a1", "a2", "b1", "b2")
    await until(lambda: len(story.handled["b"]) == 2 and story.begun["a"] == ["a1"] and not story.running["a"])
    clock.advance(4.9)
    assert await office.inboxes.scan() == 0
    clock.advance(0.1)
    await until(lambda: story.begun["a"] == ["a1"])
    assert await office.inboxes.scan() == 1
    await until(lambda: len(story.handled["a"]) == 2)
    assert story.begun["a"] == ["a1", "a1", "a2"]
    again = [one for one in story.envelopes if one.message_id == "a1"][1]
    assert (again.attempt, again.due_ms, again.redelivered) == (2, None, False)
    assert "busy" in again.history[0]


async def test_a_hand_back_costs_no_attempt(office: Office, story: Story, clock: FakeClock) -> None:
    story.answer = lambda one: Ack() if one.handbacks else Retry(after=2, counted=False, reason="throttled")
    await office.get("a1")
    await until(lambda: story.begun["a"] and not story.running["a"])
    clock.advance(3)
    await until(lambda: office.inboxes._inboxes["orders"]._tasks == {})
    await office.inboxes.scan()
    await until(lambda: story.done)
    assert (story.envelopes[1].attempt, story.envelopes[1].handbacks) == (1, 1)


async def test_a_handler_that_raises_is_tried_again_and_then_dead(
    office: Office, story: Story, clock: FakeClock
) -> None:
    async def broken(envelope: MessageEnvelope) -> Verdict:
        raise RuntimeError("bug")

    story.answer = broken
    await office.get("a1")
    for attempt in (1, 2, 3):
        await until(lambda attempt=attempt: len(story.begun["a"]) == attempt)
        await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
        clock.advance(5)
        await office.inboxes.scan()
    await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
    (letter,) = await office.bus.dead_letters.letters("orders")
    assert (letter.id, letter.failure.error_type, letter.failure.attempt) == ("a1", "RuntimeError", 3)
    assert len(letter.failure.history) == 3


async def test_a_handler_that_stumbles_over_something_cancelled_has_failed_once(
    office: Office, story: Story, clock: FakeClock
) -> None:
    def stumble(envelope: MessageEnvelope) -> Verdict:
        if envelope.message_id == "a1":
            raise asyncio.CancelledError
        return Ack()

    story.answer = stumble
    await office.get("a1", "a2")
    for attempt in (1, 2, 3):
        await until(lambda tried=attempt: len(story.begun["a"]) >= tried)  # type: ignore[misc]
        await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
        clock.advance(6)
        await office.inboxes.scan()
    assert [one.attempt for one in story.envelopes] == [1, 2, 3]
    (letter,) = await office.bus.dead_letters.letters("orders")
    assert (letter.id, letter.failure.error_type) == ("a1", "CancelledError")


async def test_a_retry_that_falls_due_wakes_its_key_without_a_scan(
    open_office: OpenOffice, story: Story, broker: MemoryBroker
) -> None:
    from rockbot_messaging.clock import SystemClock

    real = MemoryStateStore(SystemClock())
    await real.open()
    bus = (await open_office()).bus
    office = Office("real", real, bus, story, SystemClock())
    story.answer = lambda one: Retry(after=0.05, reason="busy") if one.attempt == 1 else Ack()
    await office.get("a1", "a2")
    await until(lambda: len(story.done) == 2)
    assert story.begun["a"] == ["a1", "a1", "a2", "a2"]
    await office.inboxes.close(timeout=1)


# -- dead letters


async def test_a_dead_letter_holds_up_its_key_until_it_is_replayed(
    office: Office, story: Story, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await office.consume()
    publish = office.bus.publisher.publish
    story.answer = _dead("a1")
    for name in ("a1", "a2", "b1"):
        await publish(order(name))
    await until(lambda: story.done == ["b1"] and not office.inboxes._inboxes["orders"]._tasks)
    assert "a dead letter holds up its key" in caplog.text
    clock.advance(3600)
    assert await office.inboxes.scan() == 0
    (held,) = await office.inboxes.blocked("orders")
    assert held == BlockedKey(
        subscription="orders",
        tenant="default",
        key="a",
        message_id="a1",
        since_ms=clock.now_ms() - 3_600_000,
        reason="no such article",
        waiting=1,
    )
    story.answer = None
    await office.bus.dead_letters.replay("orders", "a1", body=b'{"mended": true}')
    await until(lambda: len(story.handled["a"]) == 2)
    assert story.handled["a"] == ["a1", "a2"]
    assert next(one for one in reversed(story.envelopes) if one.message_id == "a1").body == b'{"mended": true}'
    assert await office.inboxes.blocked("orders") == []
    assert await _letters(office) == []


async def test_a_letter_that_dies_again_holds_up_its_key_again(office: Office, story: Story) -> None:
    await office.consume()
    story.answer = _dead("a1")
    await office.bus.publisher.publish_many([order("a1"), order("a2")])
    for times in (1, 2, 3):
        await until(lambda times=times: len(story.begun["a"]) == times)
        await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
        assert await _letters(office) == ["a1"]
        await office.bus.dead_letters.replay("orders", "a1")
    assert story.begun["a"][:3] == ["a1", "a1", "a1"]


async def test_a_key_may_be_released_and_the_letter_then_goes_to_the_end(office: Office, story: Story) -> None:
    await office.consume()
    story.answer = _dead("a1")
    await office.bus.publisher.publish_many([order("a1"), order("a2")])
    await until(lambda: story.begun["a"] == ["a1"] and not office.inboxes._inboxes["orders"]._tasks)
    assert not await office.inboxes.release("orders", "a", message_id="another")
    assert not await office.inboxes.release("orders", "b")
    assert await office.inboxes.release("orders", "a", message_id="a1")
    await until(lambda: story.handled["a"] == ["a2"])
    assert not await office.inboxes.release("orders", "a")
    story.answer = None
    await office.bus.dead_letters.replay("orders", "a1")
    await until(lambda: story.handled["a"] == ["a2", "a1"])


async def test_a_dead_letter_is_passed_by_when_the_order_says_so(open_office: OpenOffice, story: Story) -> None:
    office = await open_office(subscription=ordered("skip"))
    await office.consume()
    story.answer = _dead("a1")
    await office.bus.publisher.publish_many([order("a1"), order("a2")])
    await until(lambda: story.handled["a"] == ["a2"])
    assert await office.inboxes.blocked("orders") == []
    assert await _letters(office) == ["a1"]
    story.answer = None
    await office.bus.dead_letters.replay("orders", "a1")
    await until(lambda: story.handled["a"] == ["a2", "a1"])


async def test_a_crash_between_the_letter_and_the_block_buries_it_again_under_its_id(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    fails = Fails(store)
    first, second = await open_office(store=fails), await open_office()
    story.answer = _dead("a1")
    dead = asyncio.Event()

    def after_burial() -> None:
        if story.begun["a"]:
            dead.set()
            raise RuntimeError("the process dies here")

    fails.before_write = after_burial
    await first.get("a1", "a2")
    await until(dead.is_set)
    await first.inboxes.kill()
    clock.advance(15)
    assert await second.inboxes.scan() == 1
    await until(lambda: len(story.begun["a"]) == 2 and not second.inboxes._inboxes["orders"]._tasks)
    assert await _letters(second) == ["a1", "a1"]
    assert [held.message_id for held in await second.inboxes.blocked("orders")] == ["a1"]


async def test_a_message_that_cannot_be_read_holds_up_its_key_and_is_told(
    office: Office, story: Story, store: MemoryStateStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    await office.get("a1", "a2", "a3")
    line = LineId("orders", "default", "a")
    await store.put(line.entry(1), b"\xff")
    gate.set()
    await until(lambda: "an inbox is blocked" in caplog.text and not office.inboxes._inboxes["orders"]._tasks)
    (blocked,) = await office.inboxes.blocked("orders")
    assert "cannot be read" in blocked.reason
    # Another release may have written it: it is not thrown away for that.
    assert await store.get(line.entry(1)) is not None
    assert await office.inboxes.release("orders", "a")
    await until(lambda: story.handled["a"] == ["a1", "a3"])


async def test_a_message_that_could_not_be_read_is_handled_when_its_key_is_released_and_it_can(
    office: Office, story: Story, store: MemoryStateStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    await office.get("a1", "a2", "a3")
    where = LineId("orders", "default", "a").entry(1)
    written = await store.get(where)
    assert written is not None
    await store.put(where, b"what only a newer release reads")
    gate.set()
    await until(lambda: "an inbox is blocked" in caplog.text and not office.inboxes._inboxes["orders"]._tasks)
    await store.put(where, written.value)
    assert await office.inboxes.release("orders", "a")
    await until(lambda: story.handled["a"] == ["a1", "a2", "a3"])


# -- copies, bounds, what is left


async def test_a_copy_of_a_message_that_waits_or_was_handled_is_acknowledged_and_counted(
    office: Office, story: Story, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    assert await office.get("a1", "a2", "a1", "a2") == [Ack()] * 4
    gate.set()
    await until(lambda: len(story.done) == 2)
    await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
    assert await office.get("a1", redelivered=True) == [Ack()]
    assert story.begun["a"] == ["a1", "a2"]
    assert office.counters.value(Names.DUPLICATES, subscription="orders") == 3
    assert "a copy of a message of an inbox was acknowledged" in caplog.text
    clock.advance(86_400)
    await office.get("a1")
    await until(lambda: len(story.done) == 3)


async def test_handled_ids_are_remembered_as_long_as_the_subscription_says(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    office = await open_office(subscription=ordered(remember=60.0))
    await office.get("a1")
    await until(lambda: story.done and not office.inboxes._inboxes["orders"]._tasks)
    clock.advance(59)
    await office.get("a1")
    assert story.begun["a"] == ["a1"]
    clock.advance(1)
    await office.get("a1")
    await until(lambda: len(story.done) == 2)


async def test_the_order_of_a_subscription_says_how_many_wait_and_how_long_a_lease_is(
    open_office: OpenOffice, story: Story, store: MemoryStateStore
) -> None:
    story.answer = _dead("a1")
    order_of_its_own = Ordered(by="correlation", lease=7, scan=0.01, most=2)
    office = await open_office(subscription=ordered(ordered=order_of_its_own), lease=None, scan_every=None)
    await office.consume()
    lease = await store.acquire_lease(key_of("host", "lease", "inbox-reader", "orders"), owner="office-0", ttl=7)
    now_ms = await store.now_ms()
    assert lease is not None
    assert lease.until_ms == now_ms + 7000
    other = await store.acquire_lease(key_of("host", "lease", "inbox-reader", "orders"), owner="another", ttl=7)
    assert other is None, "this process does not read"
    assert isinstance(office.reader, Reader)
    assert office.reader._seconds == 7
    verdicts = await office.get("a1", "a2", "a3")
    assert [type(one) for one in verdicts] == [Ack, Ack, Retry]
    await until(lambda: story.begun["a"] == ["a1"] and not office.inboxes._inboxes["orders"]._tasks)
    assert await BlockedKeys(store).release("orders", "a")
    assert office.inboxes._inboxes["orders"].scan_every == 0.01
    await until(lambda: story.done == ["a2"])  # without a word to this process: by its scan


async def test_long_scans_take_no_more_than_a_share_of_the_time(
    office: Office, store: MemoryStateStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = office.inboxes._inboxes["orders"]
    listed: list[float] = []
    now_ms = store.now_ms

    async def slow() -> int:
        listed.append(clock.monotonic())
        clock.advance(3)
        return await now_ms()

    monkeypatch.setattr(store, "now_ms", slow)
    begun = clock.monotonic()
    while clock.monotonic() < begun + 100:
        await inbox.scan_in_turn()
        clock.advance(1)
    assert len(listed) == 4
    await office.inboxes.scan()
    assert len(listed) == 5, "who asks for a scan gets one"


async def test_a_full_inbox_hands_back_without_costing_an_attempt(open_office: OpenOffice, story: Story) -> None:
    office = await open_office(most=2)
    gate = asyncio.Event()

    async def held(envelope: MessageEnvelope) -> Verdict:
        await gate.wait()
        return Ack()

    story.answer = held
    first, second, third, other = await office.get("a1", "a2", "a3", "b1")
    assert (first, second, other) == (Ack(), Ack(), Ack())
    assert isinstance(third, Retry)
    assert not third.counted
    assert "'a'" in third.reason
    gate.set()
    await until(lambda: len(story.done) == 3)
    await until(lambda: not office.inboxes._inboxes["orders"]._tasks)
    assert await office.get("a3") == [Ack()]


async def test_nothing_is_left_of_keys_that_are_empty(
    office: Office, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    await office.get(*(f"{key}{number}" for key in "abcdef" for number in range(3)))
    await until(lambda: len(story.done) == 18 and not office.inboxes._inboxes["orders"]._tasks)
    clock.advance(86_400)
    for space in ("inbox", "inbox-message", "inbox-id"):
        assert (await store.list(prefix("host", space))).entries == ()


async def test_tenants_have_lines_of_their_own(office: Office, story: Story) -> None:
    story.answer = _dead("a1")
    await office.get("a1")
    await until(lambda: story.begun["a"] and not office.inboxes._inboxes["orders"]._tasks)
    assert await office.get("a1", "a2", tenant="acme") == [Ack(), Ack()]
    await until(lambda: story.begun["a"] == ["a1", "a1"] and not office.inboxes._inboxes["orders"]._tasks)
    assert {held.tenant for held in await office.inboxes.blocked("orders")} == {"default", "acme"}
    assert await office.inboxes.release("orders", "a", tenant="acme")
    await until(lambda: story.done == ["a2"])


async def test_a_store_that_is_away_is_waited_for_with_the_delivery_in_hand(
    open_office: OpenOffice, story: Story, store: MemoryStateStore
) -> None:
    fails = Fails(store)
    office = await open_office(store=fails)
    fails.away = True
    arriving = [asyncio.ensure_future(office.receive(order(name))) for name in ("a1", "a2")]
    await until(lambda: fails.refused)
    assert not any(one.done() for one in arriving)
    fails.away = False
    assert await asyncio.gather(*arriving) == [Ack(), Ack()]
    await until(lambda: story.handled["a"] == ["a1", "a2"])
