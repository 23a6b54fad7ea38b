"""The chain of links."""

from __future__ import annotations

import pytest
from core.links import Act, Link, Loud, Ping, Pong, envelope

from rockbot.chain import Chain, Order
from rockbot.context import Context
from rockbot.errors import Unhandled
from rockbot.events import Event, EventRegistry
from rockbot.handler import CallNext
from rockbot_messaging.testing import FakeClock

REGISTRY = EventRegistry([Ping, Loud, Pong])


def context() -> Context:
    return Context(envelope(), clock=FakeClock(), source="test")


def noting(notes: list[str], name: str, *, passes: bool = True) -> Act:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        notes.append(f"{name}>")
        if passes:
            await call_next(event, context)
        notes.append(f"<{name}")

    return act


async def test_links_wrap_each_other_by_order_and_then_by_registration() -> None:
    notes: list[str] = []
    links = [
        (Order.WORK, "work", Link(noting(notes, "work", passes=False))),
        (Order.POLICY, "b", Link(noting(notes, "b"))),
        (Order.LOGGING, "logging", Link(noting(notes, "logging"))),
        (Order.POLICY, "c", Link(noting(notes, "c"))),
    ]
    await Chain(links, REGISTRY).run(Ping(), context())
    assert notes == ["logging>", "b>", "c>", "work>", "<work", "<c", "<b", "<logging"]


async def test_a_link_that_does_not_pass_on_ends_the_chain() -> None:
    notes: list[str] = []
    links = [
        (1, "gate", Link(noting(notes, "gate", passes=False))),
        (2, "work", Link(noting(notes, "work", passes=False))),
    ]
    await Chain(links, REGISTRY).run(Ping(), context())
    assert notes == ["gate>", "<gate"]


async def test_an_event_that_every_link_passes_on_is_unhandled() -> None:
    chain = Chain([(1, "a", Link(noting([], "a")))], REGISTRY)
    with pytest.raises(Unhandled, match=r"no handler of this host takes test\.ping \(topic 'test\.ping'\)"):
        await chain.run(Ping(), context())


async def test_an_event_of_no_link_and_an_event_of_no_registry_are_unhandled() -> None:
    chain = Chain([(1, "a", Link(noting([], "a", passes=False), Pong))], REGISTRY)
    with pytest.raises(Unhandled):
        await chain.run(Ping(), context())

    class Stray(Event):
        type_name = "test.stray"

    with pytest.raises(Unhandled):
        await chain.run(Stray(), context())


async def test_a_link_is_asked_about_its_own_events_and_their_kinds_only() -> None:
    notes: list[str] = []
    links = [
        (1, "pings", Link(noting(notes, "pings"), Ping)),
        (2, "loud", Link(noting(notes, "loud"), Loud)),
        (3, "end", Link(noting(notes, "end", passes=False))),
    ]
    chain = Chain(links, REGISTRY)
    for event in (Pong(), Ping(), Loud()):
        notes.clear()
        await chain.run(event, context())
        asked = [note for note in notes if note.endswith(">")]
        expected = {Pong: ["end>"], Ping: ["pings>", "end>"], Loud: ["pings>", "loud>", "end>"]}
        assert asked == expected[type(event)]


async def test_a_link_may_change_what_the_next_one_sees() -> None:
    seen: list[Event] = []

    async def change(event: Event, context: Context, call_next: CallNext) -> None:
        await call_next(Ping(text="changed"), context)

    async def work(event: Event, context: Context, call_next: CallNext) -> None:
        seen.append(event)

    await Chain([(1, "change", Link(change)), (2, "work", Link(work))], REGISTRY).run(Ping(text="first"), context())
    assert seen == [Ping(text="changed")]


def test_the_chain_describes_itself() -> None:
    links = [(2, "pings", Link(noting([], ""), Ping)), (1, "all", Link(noting([], "")))]
    assert Chain(links, REGISTRY).describe() == [
        ("test.loud", ["all", "pings"]),
        ("test.ping", ["all", "pings"]),
        ("test.pong", ["all"]),
    ]


def test_emitted_ids_are_derived_and_told_apart_by_name_or_number() -> None:
    first, again = context(), context()
    for each in (first, again):
        each.emit(Pong(), topic="test.pong")
        each.emit(Pong(), topic="test.pong")
        each.emit(Pong(), topic="test.pong", name="mine")
        each.emit(Ping(), topic="test.ping")
    ids = [emission.envelope.message_id for emission in first.emissions]
    assert len(set(ids)) == 4
    assert ids == [emission.envelope.message_id for emission in again.emissions]


def test_what_is_emitted_inherits_its_cause() -> None:
    cause = envelope(
        tenant="acme", correlation_id="c", conversation_id="v", root_task_id="r", deadline_ms=9, traceparent="t"
    )
    made = Context(cause, clock=FakeClock(), source="me").emit(Pong(), topic="test.pong")
    assert (made.tenant, made.correlation_id, made.conversation_id, made.root_task_id) == ("acme", "c", "v", "r")
    assert (made.deadline_ms, made.traceparent, made.causation_id, made.source) == (9, "t", "m1", "me")
    assert made.return_address is None
    assert made.reply_to is None


def test_remaining_counts_down_to_the_deadline() -> None:
    clock = FakeClock()
    timed = Context(envelope(deadline_ms=clock.now_ms() + 1500), clock=clock, source="me")
    assert timed.remaining == 1.5
    clock.advance(2)
    assert timed.remaining == -0.5
    assert context().remaining is None
