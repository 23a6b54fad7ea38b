"""Replies that are told while the model writes them: what is published, what is stored, and what a watcher makes of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot.context import Context
from rockbot.events import LlmDelta, LlmRequest, LlmResponse, Message, TextPart, ToolCallPart
from rockbot.llm import LlmError, LlmTransient, TextDelta
from rockbot.settings_streaming import StreamingSettings
from rockbot.state.memory import MemoryStateStore
from rockbot.state.replies import ReplySnapshot, ReplySnapshots
from rockbot.watching import ReplyUpdate, watch_replies
from rockbot_handlers.llm.live_text import LiveText
from rockbot_handlers.llm.streaming import Streaming
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.testing import FakeClock, SequenceIds

CONVERSATION = "conversation-1"
REQUEST = LlmRequest(model="test/m", messages=(Message(role="user", parts=(TextPart(text="hi"),)),))
EAGER = StreamingSettings(batch_chars=1, snapshot_bytes=256, snapshot_seconds=0.1)


def reply(*parts: str) -> LlmResponse:
    return LlmResponse(message=Message(role="assistant", parts=tuple(TextPart(text=part) for part in parts)))


class Dictated:
    """A model that says these pieces, one at a time, each attempt its own, and fails where it is told to.

    With `allowed` it says no more pieces than that, until somebody allows it more. With `heard`, which is what was told of
    the attempt, it goes on after each piece when that was told.
    """

    def __init__(
        self,
        *attempts: Sequence[str | LlmError],
        pace: float = 0.0,
        whole: LlmResponse | None = None,
        allowed: int | None = None,
        heard: Callable[[], str] | None = None,
    ) -> None:
        self.attempts = list(attempts)
        self.pace = pace
        self.whole = whole
        self.allowed = allowed
        self.heard = heard
        self.said = 0
        self.completed = 0

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        self.completed += 1
        return reply("whole")

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        pieces, text = self.attempts.pop(0), ""
        for piece in pieces:
            await asyncio.sleep(self.pace)
            if isinstance(piece, LlmError):
                raise piece
            while self.allowed is not None and self.said >= self.allowed:
                await asyncio.sleep(0.001)
            self.said += 1
            text += piece
            yield TextDelta(piece)
            while self.heard is not None and self.heard() != text:
                await asyncio.sleep(0)
        yield self.whole or reply("".join(piece for piece in pieces if isinstance(piece, str)))

    async def count_tokens(self, request: LlmRequest) -> int:
        return 1

    async def close(self) -> None: ...


class Ear:
    """Hears what is signalled."""

    def __init__(self) -> None:
        self.heard: list[MessageEnvelope] = []

    async def __call__(self, envelope: MessageEnvelope) -> None:
        self.heard.append(envelope)

    @property
    def deltas(self) -> list[LlmDelta]:
        return [LlmDelta.model_validate_json(envelope.body) for envelope in self.heard]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


class SlowStore:
    """Stores nothing until the gate is opened."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = MemoryStateStore(clock)
        self.gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def put(self, *args: Any, **options: Any) -> int:
        await self.gate.wait()
        return await self.store.put(*args, **options)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Context:
    return make_context(REQUEST, "llm.request.test.interactive")


def streaming(
    store: MemoryStateStore, signal: Callable[[MessageEnvelope], Awaitable[None]], settings: StreamingSettings = EAGER
) -> Streaming:
    return Streaming(settings, state=store, signal=signal)


async def test_a_reply_is_told_in_keyed_pieces_that_make_its_text(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    response = await streaming(store, ear).of(context).make(Dictated(["Hel", "lo, ", "wörld"]), REQUEST)
    assert response == reply("Hello, wörld")
    told = ear.deltas
    assert "".join(delta.text for delta in told) == "Hello, wörld"
    assert [delta.sequence for delta in told] == list(range(len(told)))
    assert [delta.offset for delta in told] == [
        len("".join(before.text for before in told[:at])) for at in range(len(told))
    ]
    assert [delta.reset for delta in told] == [True] + [False] * (len(told) - 1)
    assert [delta.done for delta in told] == [False] * (len(told) - 1) + [True]
    assert {(delta.task_id, delta.conversation_id, delta.call_id, delta.attempt) for delta in told} == {
        ("task-1", CONVERSATION, context.envelope.message_id, clock.now_ms())
    }
    assert {(it.topic, it.type, it.durable) for it in ear.heard} == {
        ("llm.delta.conversation-1", "rockbot.llm.delta", False)
    }
    assert len({it.message_id for it in ear.heard}) == len(told)
    assert context.emissions == []


async def test_pieces_are_gathered_into_batches(store: MemoryStateStore, ear: Ear, context: Context) -> None:
    settings = StreamingSettings(batch_chars=10).model_copy(update={"batch_seconds": 3600})  # no pause is that long
    await streaming(store, ear, settings).of(context).make(Dictated(["word "] * 10), REQUEST)
    assert 2 <= len(ear.deltas) <= 6
    assert all(len(delta.text) >= 10 for delta in ear.deltas[:-1])


async def test_a_batch_does_not_wait_for_more_than_its_time(
    store: MemoryStateStore, ear: Ear, context: Context
) -> None:
    heard = asyncio.Event()

    class Thinking(Dictated):
        async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[TextDelta | LlmResponse]:
            yield TextDelta("Wait")
            await heard.wait()
            yield reply("Wait")

    async def signal(envelope: MessageEnvelope) -> None:
        await ear(envelope)
        heard.set()

    settings = StreamingSettings(batch_seconds=0.01, batch_chars=1000)
    async with asyncio.timeout(60):
        await streaming(store, signal, settings).of(context).make(Thinking(), REQUEST)
    assert [(delta.text, delta.done) for delta in ear.deltas] == [("Wait", False), ("", True)]


async def test_the_text_so_far_is_stored_for_those_who_come_late_and_goes_after_its_time(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    pieces = [f"{number:04} " * 20 for number in range(12)]
    kept: list[ReplySnapshot] = []

    class Watched(Dictated):
        async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[TextDelta | LlmResponse]:
            async for item in super().stream(*args, **kwargs):
                kept.extend(await ReplySnapshots(store).of("default", CONVERSATION))
                yield item

    settings = EAGER.model_copy(update={"keep_seconds": 9})
    calls = streaming(store, ear, settings)
    await calls.of(context).make(Watched(pieces), REQUEST)
    await calls.close()
    assert any(snapshot.text and not snapshot.done for snapshot in kept)
    assert all("".join(pieces).startswith(snapshot.text) for snapshot in kept)
    (last,) = await ReplySnapshots(store).of("default", CONVERSATION)
    assert (last.text, last.done, last.task_id) == ("".join(pieces), True, "task-1")
    clock.advance(9.1)
    assert await ReplySnapshots(store).of("default", CONVERSATION) == []


async def test_a_snapshot_is_due_by_time_too(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    settings = StreamingSettings(batch_chars=1, snapshot_seconds=1, snapshot_bytes=10_000)
    stored: list[int] = []

    async def signal(envelope: MessageEnvelope) -> None:
        stored.append(len(await ReplySnapshots(store).of("default", CONVERSATION)))
        clock.advance(0.6)
        await ear(envelope)

    async with asyncio.timeout(60):
        client = Dictated(list("abcd"), heard=lambda: ear.text)
        await streaming(store, signal, settings).of(context).make(client, REQUEST)
    assert stored[:3] == [0, 0, 1]


async def test_a_reply_without_text_tells_and_stores_nothing(
    store: MemoryStateStore, ear: Ear, context: Context
) -> None:
    call = ToolCallPart(call_id="t", tool="add", arguments={})
    whole = LlmResponse(message=Message(role="assistant", parts=(call,)), stop_reason="tool_use")
    calls = streaming(store, ear)
    assert await calls.of(context).make(Dictated([], whole=whole), REQUEST) == whole
    await calls.close()
    assert (ear.heard, await ReplySnapshots(store).of("default", CONVERSATION)) == ([], [])


async def test_switched_off_a_call_is_made_whole_and_costs_nothing(ear: Ear, context: Context) -> None:
    closed = MemoryStateStore(FakeClock())
    client = Dictated()
    off = streaming(closed, ear, StreamingSettings(enabled=False))
    assert await off.of(context).make(client, REQUEST) == reply("whole")
    assert (client.completed, ear.heard) == (1, [])


async def test_a_call_of_no_conversation_is_made_whole(
    store: MemoryStateStore, ear: Ear, make_context: Callable[..., Context]
) -> None:
    alone = make_context(REQUEST, "llm.request.test.interactive")
    alone.envelope = alone.envelope.replace(conversation_id=None)
    assert await streaming(store, ear).of(alone).make(Dictated(), REQUEST) == reply("whole")


async def test_the_next_attempt_is_another_one_and_begins_anew(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    client = Dictated(["The answer ", "is", LlmTransient("down")], ["Forty", "-two"])
    told = streaming(store, ear)
    with pytest.raises(LlmTransient):
        await told.of(context).make(client, REQUEST)
    first = ear.deltas
    assert not any(delta.done for delta in first)
    clock.advance(1)
    await told.of(context).make(client, REQUEST)
    second = ear.deltas[len(first) :]
    assert (second[0].reset, second[0].sequence, second[0].offset) == (True, 0, 0)
    assert second[0].attempt > first[0].attempt
    assert "".join(delta.text for delta in second) == "Forty-two"


async def test_an_attempt_that_says_nothing_takes_back_what_the_one_before_it_said(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    call = ToolCallPart(call_id="t", tool="add", arguments={})
    whole = LlmResponse(message=Message(role="assistant", parts=(call,)), stop_reason="tool_use")
    told = streaming(store, ear)
    client = Dictated(["I will ", "look", LlmTransient("down")], heard=lambda: ear.text)
    async with asyncio.timeout(60):
        with pytest.raises(LlmTransient):
            await told.of(context).make(client, REQUEST)
    clock.advance(1)
    context.envelope = context.envelope.replace(attempt=2)
    await told.of(context).make(Dictated([], whole=whole), REQUEST)
    await told.close()
    last = ear.deltas[-1]
    assert (last.text, last.reset, last.done) == ("", True, True)
    assert [snapshot.text for snapshot in await ReplySnapshots(store).of("default", CONVERSATION)] == [""]


async def test_pieces_that_are_not_the_reply_are_taken_back(
    store: MemoryStateStore, ear: Ear, context: Context
) -> None:
    client = Dictated(["not ", "this"], heard=lambda: ear.text, whole=reply("but", "that"))
    calls = streaming(store, ear)
    async with asyncio.timeout(60):
        await calls.of(context).make(client, REQUEST)
    await calls.close()
    last = ear.deltas[-1]
    assert (last.text, last.reset, last.done) == ("but\nthat", True, True)
    assert last.attempt > ear.deltas[0].attempt
    (kept,) = await ReplySnapshots(store).of("default", CONVERSATION)
    assert (kept.text, kept.done) == ("but\nthat", True)


@pytest.mark.parametrize("pieces", [["\ud83d", "\ude00!"], ["a\ud83d", "b"], ["\ude00"]])
async def test_halves_of_characters_are_told_as_the_reply_will_have_them(
    store: MemoryStateStore, ear: Ear, context: Context, pieces: list[str]
) -> None:
    response = await streaming(store, ear).of(context).make(Dictated(pieces), REQUEST)
    durable = LlmResponse.model_validate_json(response.to_body()).message.text
    assert "".join(delta.text for delta in ear.deltas) == durable
    assert len({delta.attempt for delta in ear.deltas}) == 1


async def test_nothing_that_happens_to_the_telling_touches_the_call(context: Context) -> None:
    async def signal(envelope: MessageEnvelope) -> None:
        raise BrokerUnreachable("gone")

    store = MemoryStateStore(FakeClock())
    await store.open()
    assert await streaming(store, signal).of(context).make(Dictated(["a", "b"]), REQUEST) == reply("ab")
    await store.close()
    assert await streaming(store, signal).of(context).make(Dictated(["a", "b"]), REQUEST) == reply("ab")


async def test_a_worker_that_fell_behind_writes_over_nothing(
    store: MemoryStateStore, ear: Ear, context: Context, clock: FakeClock
) -> None:
    snapshots = ReplySnapshots(store)
    ahead = ReplySnapshot(
        call_id=context.envelope.message_id, attempt=clock.now_ms() + 1, sequence=1, text="ahead", done=True
    )
    await snapshots.put("default", CONVERSATION, ahead, ttl=60)
    calls = streaming(store, ear)
    await calls.of(context).make(Dictated(["behind " * 50] * 3), REQUEST)
    await calls.close()
    assert await snapshots.of("default", CONVERSATION) == [ahead]


async def test_an_answer_does_not_wait_for_its_text_to_be_stored(ear: Ear, context: Context, clock: FakeClock) -> None:
    store = SlowStore(clock)
    await store.store.open()
    calls = Streaming(StreamingSettings(), state=store, signal=ear)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        assert await calls.of(context).make(Dictated(["so"]), REQUEST) == reply("so")
    assert ear.deltas[-1].done
    store.gate.set()
    await calls.close()
    (kept,) = await ReplySnapshots(store.store).of("default", CONVERSATION)
    assert (kept.text, kept.done) == ("so", True)


async def test_a_cancelled_call_leaves_no_task_behind(store: MemoryStateStore, ear: Ear, context: Context) -> None:
    task = asyncio.create_task(streaming(store, ear).of(context).make(Dictated(["a"] * 10, allowed=1), REQUEST))
    async with asyncio.timeout(60):
        while not ear.heard:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert {other.get_name() for other in asyncio.all_tasks()}.isdisjoint({"tell a reply"})


# -- watchers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def live_store() -> MemoryStateStore:
    store = MemoryStateStore(SystemClock())
    await store.open()
    return store


def over(bus: MessageBus, store: MemoryStateStore) -> Streaming:
    async def signal(envelope: MessageEnvelope) -> None:
        await bus.publisher.publish(envelope, door=Door.LOSSY)

    return streaming(store, signal)


class Person:
    """Follows one reply on a screen: adds what is new, starts over when told to."""

    def __init__(self) -> None:
        self.screen = ""

    def see(self, update: ReplyUpdate) -> None:
        self.screen = update.new if update.reset else self.screen + update.new
        assert self.screen == update.text


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abc äß😀\n", k=rng.randint(1, 12))) for _ in range(count)]


class _Watchers:
    """Over one kind of bus; a subclass has a fixture `bus`."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_a_watcher_that_goes_away_at_random_tokens_has_the_identical_text_in_the_end(
        self, bus: MessageBus, live_store: MemoryStateStore, context: Context, seed: int
    ) -> None:
        rng = random.Random(seed)
        first, second = words(rng, 40), words(rng, 120)
        # The model waits for its watchers, so a machine on which opening a watch is slow has as many visits.
        client = Dictated([*first, LlmTransient("cut")], second, pace=0.002, allowed=0)

        def allow(more: int) -> None:
            client.allowed = client.said + more

        async def work() -> LlmResponse:
            calls = over(bus, live_store)
            with pytest.raises(LlmTransient):
                await calls.of(context).make(client, REQUEST)
            return await calls.of(context).make(client, REQUEST)

        call = asyncio.create_task(work())
        texts = ["".join(first), "".join(second)]
        ended, visits = False, 0
        async with asyncio.timeout(60):
            while not ended:
                person, stay = Person(), rng.randint(1, 3)
                visits += 1
                async with watch_replies(bus.subscriber, CONVERSATION, snapshots=ReplySnapshots(live_store)) as watcher:
                    allow(10)
                    async for update in watcher:
                        allow(10)
                        person.see(update)
                        assert any(text.startswith(update.text) for text in texts)
                        stay -= 1
                        ended = update.done
                        if ended or not stay:
                            break
                allow(rng.randint(0, 10))
                while client.said < (client.allowed or 0) and not call.done():
                    await asyncio.sleep(0.001)
            response = await call
        assert person.screen == texts[1] == response.message.text
        assert visits > 2

    async def test_a_watcher_from_the_start_needs_no_snapshot(
        self, bus: MessageBus, live_store: MemoryStateStore, context: Context
    ) -> None:
        person = Person()
        async with watch_replies(bus.subscriber, CONVERSATION) as watcher:
            call = asyncio.create_task(over(bus, live_store).of(context).make(Dictated(["It ", "is ", "so."]), REQUEST))
            async with asyncio.timeout(60):
                async for update in watcher:
                    person.see(update)
                    if update.done:
                        break
            await call
        assert person.screen == "It is so."


class TestInMemory(_Watchers):
    @pytest.fixture
    async def bus(self) -> AsyncIterator[MessageBus]:
        bus = MemoryBus(broker=MemoryBroker(clock=FakeClock(), ids=SequenceIds()))
        await bus.open()
        yield bus
        await bus.close()


@pytest.mark.rabbitmq
class TestOverRabbitMq(_Watchers):
    @pytest.fixture
    async def bus(self, harness: RabbitHarness) -> MessageBus:
        bus = await harness.connect()
        await bus.declare([])
        return bus


async def test_who_comes_while_the_model_pauses_sees_what_it_has_said(
    live_store: MemoryStateStore, context: Context
) -> None:
    bus = MemoryBus(broker=MemoryBroker(clock=SystemClock(), ids=SequenceIds()))
    await bus.open()
    client, person = Dictated(["Let me ", "think"], allowed=1), Person()
    call = asyncio.create_task(over(bus, live_store).of(context).make(client, REQUEST))
    async with asyncio.timeout(60):
        while not client.said:
            await asyncio.sleep(0.001)
        async with watch_replies(bus.subscriber, CONVERSATION, snapshots=ReplySnapshots(live_store)) as watcher:
            async for update in watcher:
                person.see(update)
                client.allowed = 2
                if update.done:
                    break
        await call
    await bus.close()
    assert person.screen == "Let me think"


async def test_a_watcher_sees_its_own_conversation_and_tenant_alone(
    make_context: Callable[..., Context], live_store: MemoryStateStore
) -> None:
    bus = MemoryBus(broker=MemoryBroker(clock=FakeClock(), ids=SequenceIds()))
    await bus.open()
    calls = over(bus, live_store)
    async with watch_replies(bus.subscriber, CONVERSATION, snapshots=ReplySnapshots(live_store)) as watcher:
        for changes in ({"tenant": "other"}, {"conversation_id": "conversation-2"}, {}):
            one = make_context(REQUEST, "llm.request.test.interactive")
            one.envelope = one.envelope.replace(**changes)
            await calls.of(one).make(Dictated([f"mine: {not changes}"]), REQUEST)
        async with asyncio.timeout(60):
            async for update in watcher:
                assert update.text == "mine: True"[: len(update.text)]
                if update.done:
                    break
    await bus.close()


async def test_a_reply_whose_end_was_lost_on_the_way_is_found_in_its_snapshot(
    live_store: MemoryStateStore, context: Context
) -> None:
    bus = MemoryBus(broker=MemoryBroker(clock=FakeClock(), ids=SequenceIds()))
    await bus.open()
    sent = 0

    async def lossy(envelope: MessageEnvelope) -> None:
        nonlocal sent
        sent += 1
        if sent == 1:
            await bus.publisher.publish(envelope, door=Door.LOSSY)

    person = Person()
    async with watch_replies(bus.subscriber, CONVERSATION, snapshots=ReplySnapshots(live_store)) as watcher:
        await streaming(live_store, lossy).of(context).make(Dictated(["Almost ", "all ", "of it"]), REQUEST)
        async with asyncio.timeout(60):
            async for update in watcher:
                person.see(update)
                if update.done:
                    break
    assert person.screen == "Almost all of it"
    await bus.close()


async def test_a_slow_broker_makes_the_batches_larger_and_the_call_no_slower() -> None:
    gate, told = asyncio.Event(), list[str]()

    class Slow:
        async def publish(self, *, sequence: int, offset: int, text: str, done: bool) -> None:
            told.append(text)
            await gate.wait()

        async def keep(self, *, sequence: int, text: str, done: bool) -> bool:
            return True

    live = LiveText(Slow(), EAGER, monotonic=FakeClock().monotonic)
    live.start()
    for piece in "abcdef":
        live.add(piece)
        await asyncio.sleep(0)
    gate.set()
    assert await live.finish("abcdef")
    assert "".join(told) == "abcdef"
    assert len(told) <= 3
