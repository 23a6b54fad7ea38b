"""Effects once: whatever is delivered again, and wherever a process dies, an account is charged once and told about."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from core.desk import Desk
from handlers.till import REMEMBER, Receipt, Till, balance, payment

from rockbot.chain import Order
from rockbot.context import Context, Emission
from rockbot.errors import ConfigError, PermanentFailure, TemporaryFailure
from rockbot.events import Event
from rockbot.machines.recovery import OutboxRecovery
from rockbot.outbox import emission_of, row_of
from rockbot.outgoing import Outgoing
from rockbot.state.keys import handled_key, key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import Append, StateUnavailable
from rockbot_handlers.deduplication.plugin import plugin
from rockbot_messaging.errors import BrokerUnreachable, Unroutable
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.ports import Door
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry

M = "11111111-1111-5111-8111-111111111111"
MARK = handled_key("default", "till", M)


class Bench:
    """A till over a store and a desk; `duplicates` is what was counted."""

    def __init__(self, store: MemoryStateStore, clock: FakeClock, **how: Any) -> None:
        self.store, self.clock = store, clock
        self.desk = Desk()
        self.counters = Counters()
        self.till = Till(store, self.desk, clock=clock, measures=self.counters, **how)

    async def take(self, message_id: str = M, **fields: Any) -> Any:
        return await self.till.handler(payment(message_id, **fields))

    @property
    def duplicates(self) -> float:
        return self.counters.value(Names.DUPLICATES, subscription="till")


@pytest.fixture
def bench(store: MemoryStateStore, clock: FakeClock) -> Bench:
    return Bench(store, clock)


async def test_a_message_is_handled_once_however_often_it_is_delivered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert [await bench.take() for _ in range(3)] == [Ack(), Ack(), Ack()]
    assert (await balance(bench.store), bench.till.handled[M], bench.desk.topics) == (1, 1, ["receipt.sent"])
    assert bench.duplicates == 2
    copies = [record for record in caplog.records if record.message == "a copy of a handled message was acknowledged"]
    assert [(record.levelname, record.__dict__["message_id"]) for record in copies] == [("DEBUG", M)] * 2


async def test_nothing_is_left_open_when_everything_was_sent(bench: Bench) -> None:
    await bench.take()
    assert list(await bench.store.committed(MARK, cause=M) or ["unknown"]) == ["unknown"]
    bench.clock.advance(3600)
    assert list(await bench.store.claim_outbox(owner="me", idle=30, claim=60, limit=9)) == []


async def test_other_messages_subscriptions_and_tenants_are_told_apart(bench: Bench) -> None:
    await bench.take()
    await bench.take("22222222-2222-5222-8222-222222222222")
    await bench.take(tenant="acme")
    elsewhere = bench.till.dispatcher.dispatch(payment(M), subscription="till.two", remember=REMEMBER)
    assert await elsewhere == Ack()
    assert (await balance(bench.store), await balance(bench.store, tenant="acme")) == (3, 1)
    assert bench.duplicates == 0


@pytest.mark.parametrize(
    "problem", [TemporaryFailure("later"), PermanentFailure("never"), RuntimeError("bug"), StateUnavailable("away")]
)
async def test_a_message_that_fails_leaves_neither_mark_nor_effect_nor_message(
    store: MemoryStateStore, clock: FakeClock, problem: Exception
) -> None:
    async def fail(event: Event, context: Context) -> None:
        context.effects.put(context.key("account", "one"), b"99")
        context.emit(Receipt(account="one", number=99), topic="receipt.sent")
        if context.envelope.attempt == 1:
            raise problem

    bench = Bench(store, clock, before=fail)
    assert isinstance(await bench.take(), (Retry, DeadLetter))
    assert (await balance(store), await store.committed(MARK, cause=M), bench.desk.tried) == (0, None, 0)
    assert await bench.take(attempt=2) == Ack()  # a retry, or the letter sent on
    assert (await balance(store), bench.duplicates) == (1, 0)


async def test_a_copy_after_the_window_is_handled_again(bench: Bench) -> None:
    await bench.take()
    bench.clock.advance(REMEMBER - 1)
    await bench.take()
    assert await balance(bench.store) == 1
    bench.clock.advance(1)
    await bench.take()
    assert await balance(bench.store) == 2


async def test_of_two_copies_at_the_same_time_one_has_its_effects(store: MemoryStateStore, clock: FakeClock) -> None:
    both = asyncio.Barrier(2)

    async def meet(event: Event, context: Context) -> None:
        if bench.till.handled[M] <= 2:
            await both.wait()

    bench = Bench(store, clock, before=meet)
    async with asyncio.timeout(60):
        assert await asyncio.gather(bench.take(), bench.take()) == [Ack(), Ack()]
    assert bench.till.handled[M] == 2
    assert (await balance(store), bench.duplicates) == (1, 1)
    assert len(set(bench.desk.ids)) == 1


async def test_a_value_that_somebody_else_wrote_meanwhile_hands_the_message_back(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    async def meddle(event: Event, context: Context) -> None:
        context.effects.put(context.key("stock", "nails"), b"1", expect=0)
        if context.envelope.handbacks == 0:
            await store.put(context.key("stock", "nails"), b"theirs")
        else:
            context.effects.delete(context.key("stock", "nails"), expect=1)

    bench = Bench(store, clock, before=meddle)
    verdict = await bench.take()
    assert isinstance(verdict, Retry)
    assert (verdict.counted, verdict.error_type) == (False, "VersionConflict")
    assert (await balance(store), bench.desk.tried, await store.committed(MARK, cause=M)) == (0, 0, None)
    assert await bench.take(handbacks=1) == Ack()
    assert (await balance(store), await store.get(key("default", "stock", "nails"))) == (1, None)


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """Stands before a port and dies at the n-th of its effects, before or after it."""

    def __init__(self, inner: Any, life: list[int]) -> None:
        self._inner, self._life = inner, life

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name not in ("commit", "mark_sent", "publish"):
            return member

        async def effect(*args: Any, **named: Any) -> Any:
            self._tick()
            result = await member(*args, **named)
            self._tick()
            return result

        return effect

    def _tick(self) -> None:
        self._life[0] -= 1
        if self._life[0] == 0:
            raise Killed


async def test_wherever_a_process_dies_the_effect_happens_once_and_the_message_is_sent_with_one_id(
    clock: FakeClock,
) -> None:
    died = 0
    ids: set[str] = set()
    while True:
        store, desk, counters = MemoryStateStore(clock), Desk(), Counters()
        await store.open()
        life = [died + 1]
        mortal: Any = Mortal(store, life)
        first = Till(mortal, Mortal(desk, life), clock=clock, measures=counters)  # type: ignore[arg-type]
        try:
            await first.handler(payment(M))
            done = True
        except Killed:
            done = False
        # It was not settled, so the broker delivers it again, to another process.
        second = Till(store, desk, clock=clock, measures=counters)
        assert await second.handler(payment(M, redelivered=True)) == Ack()
        assert await balance(store) == 1, f"died at effect {died + 1}"
        assert desk.topics, f"died at effect {died + 1}: nothing was sent"
        ids.update(desk.ids)
        clock.advance(3600)
        assert list(await store.claim_outbox(owner="me", idle=30, claim=60, limit=9)) == []
        if done:
            break
        died += 1
    assert died == 6, "before and after the commit, the publish and the mark"
    assert len(ids) == 1


async def test_a_broker_that_is_away_after_the_commit_costs_no_attempt_and_the_copy_only_sends(bench: Bench) -> None:
    bench.desk.fails = lambda _: BrokerUnreachable("away")
    verdict = await bench.take()
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert (await balance(bench.store), bench.desk.published) == (1, [])
    bench.desk.fails = lambda _: None
    assert await bench.take(handbacks=1) == Ack()
    assert (await balance(bench.store), bench.till.handled[M], bench.desk.topics) == (1, 1, ["receipt.sent"])


async def test_recovery_sends_what_a_dead_process_committed_and_nobody_delivered_again(bench: Bench) -> None:
    bench.desk.fails = lambda _: BrokerUnreachable("away")
    await bench.take()
    bench.desk.fails = lambda _: None
    recovery = OutboxRecovery(bench.store, Outgoing(bench.desk, clock=bench.clock, source="test"), owner="me", idle=30)
    assert await recovery.run_once() == 0
    bench.clock.advance(30)
    assert await recovery.run_once() == 1
    assert bench.desk.topics == ["receipt.sent"]
    bench.clock.advance(3600 - 31)
    assert await recovery.run_once() == 0
    assert await bench.take() == Ack()
    assert len(bench.desk.published) == 1, "a copy sends nothing that was sent"


async def test_a_letter_of_a_message_whose_answer_had_no_queue_only_sends_when_it_is_replayed(bench: Bench) -> None:
    bench.desk.fails = lambda sent: Unroutable(sent.topic)
    assert isinstance(await bench.take(attempt=5), Retry)
    bench.desk.fails = lambda _: None
    assert await bench.take() == Ack()
    assert (await balance(bench.store), bench.desk.topics) == (1, ["receipt.sent"])


async def test_a_message_that_could_never_be_sent_is_not_committed(store: MemoryStateStore, clock: FakeClock) -> None:
    bench = Bench(store, clock, body_limit=10)
    verdict = await bench.take()
    assert isinstance(verdict, DeadLetter)
    assert verdict.error_type == "BodyTooLarge"
    assert (await balance(store), await store.committed(MARK, cause=M), bench.desk.tried) == (0, None, 0)


async def test_what_may_be_lost_is_sent_and_not_stored(store: MemoryStateStore, clock: FakeClock) -> None:
    class Progress(Receipt):
        type_name = "test.progress"
        door = Door.LOSSY

    async def tell(event: Event, context: Context) -> None:
        context.emit(Progress(account="one", number=0), topic="progress.made")

    bench = Bench(store, clock, before=tell)
    bench.desk.fails = lambda _: BrokerUnreachable("away")
    await bench.take()
    assert [row.door for row in await store.committed(MARK, cause=M) or ()] == ["commands"]
    bench.desk.fails = lambda _: None
    await bench.take()
    assert bench.desk.topics == ["receipt.sent"]


async def test_what_lies_in_the_outbox_of_a_machine_is_left_to_it(store: MemoryStateStore, clock: FakeClock) -> None:
    async def step(event: Event, context: Context) -> None:
        made = context.make(Receipt(account="one", number=0), topic="receipt.made")
        row = row_of(Emission(made), cause=M, awaits_answer=True)
        stream = context.key("conversation", "c")
        await store.append(Append(stream=stream, expected_version=0, records=(b"{}",), handled=M, outbox=(row,)))
        context.send_again(emission_of(row))

    bench = Bench(store, clock, before=step)
    assert await bench.take() == Ack()
    assert bench.desk.topics == ["receipt.made", "receipt.sent"]
    (row,) = (await store.load(key("default", "conversation", "c"), handled=M)).unanswered
    assert row.awaits_answer


async def test_effects_without_a_memory_are_refused_and_the_setting_is_named(bench: Bench) -> None:
    verdict = await bench.till.dispatcher.dispatch(payment(M), subscription="till")
    assert isinstance(verdict, DeadLetter)
    assert verdict.error_type == ConfigError.__name__
    assert 'subscriptions."till".remember_seconds' in verdict.reason
    assert "'deduplication'" in verdict.reason
    assert await balance(bench.store) == 0


async def test_an_effect_on_another_tenant_is_refused(store: MemoryStateStore, clock: FakeClock) -> None:
    async def reach(event: Event, context: Context) -> None:
        context.effects.put(key("acme", "account", "one"), b"99")

    verdict = await Bench(store, clock, before=reach).take()
    assert isinstance(verdict, DeadLetter)
    assert "'default'" in verdict.reason
    assert await balance(store, tenant="acme") == 0


async def test_of_several_effects_on_one_key_the_last_counts_and_the_first_expectation_stays(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    async def twice(event: Event, context: Context) -> None:
        context.effects.put(context.key("stock", "nails"), b"1", expect=0)
        context.effects.put(context.key("stock", "nails"), b"2", ttl=5)

    bench = Bench(store, clock, before=twice)
    await bench.take()
    entry = await store.get(key("default", "stock", "nails"))
    assert entry is not None
    assert entry.value == b"2"
    clock.advance(5)
    assert await store.get(key("default", "stock", "nails")) is None
    await store.put(key("default", "stock", "nails"), b"theirs")
    assert isinstance(await bench.take("22222222-2222-5222-8222-222222222222"), Retry)


async def test_the_idempotency_key_is_the_same_for_every_attempt_and_for_nothing_else(clock: FakeClock) -> None:
    def of(message_id: str = M, subscription: str = "till", **fields: Any) -> str:
        context = Context(payment(message_id, **fields), clock=clock, source="test", subscription=subscription)
        return context.idempotency_key

    assert of() == of(attempt=3, redelivered=True, handbacks=7)
    others = {of("22222222-2222-5222-8222-222222222222"), of(subscription="till.two"), of(tenant="acme"), of()}
    assert len(others) == 4


async def test_a_deadline_that_passes_while_it_is_handled_leaves_no_mark(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    async def slow(event: Event, context: Context) -> None:
        if context.envelope.deadline_ms is not None:
            await asyncio.Event().wait()

    bench = Bench(store, clock, before=slow)
    verdict = await bench.take(deadline_ms=clock.now_ms() + 10)
    assert isinstance(verdict, DeadLetter)
    assert await store.committed(MARK, cause=M) is None
    assert await bench.take() == Ack()
    assert await balance(store) == 1


async def test_the_plugin_stands_between_deadline_and_policies(make_services: Any, chain_of: Any) -> None:
    services = make_services()
    (link,) = plugin(services).links
    assert Order.DEADLINE < link.order < Order.POLICY
    assert chain_of(services, plugin).describe()[0][1] == ["deduplication"]


async def test_without_a_memory_a_subscription_is_left_alone(store: MemoryStateStore, clock: FakeClock) -> None:
    seen: list[str] = []

    async def note(event: Event, context: Context) -> None:
        seen.append(context.envelope.message_id)
        raise TemporaryFailure("enough")

    bench = Bench(store, clock, before=note)
    for _ in range(2):
        await bench.till.dispatcher.dispatch(payment(M), subscription="till")
    assert seen == [M, M]
    assert await store.committed(MARK, cause=M) is None
