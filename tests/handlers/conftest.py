"""Real parts for handler tests: a clock that is driven, a ledger over the in-memory store, contexts as the dispatcher builds
them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot.agents.roster import Roster
from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.events import HOST_EVENTS, Event, EventRegistry
from rockbot.handler import EventHandler
from rockbot.plugins import Contribution, Plugin, Services
from rockbot.settings import Settings
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.testing import FakeClock, SequenceIds

MakeContext = Callable[..., Context]
MakeServices = Callable[..., Services]
RunChain = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_keys_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        ours = name.startswith(("ANTHROPIC_", "OPENAI_", "ROCKBOT_")) or name.endswith("_API_KEY") or name == "HF_TOKEN"
        if ours or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> MemoryStateStore:
    store = MemoryStateStore(clock)
    await store.open()
    return store


@pytest.fixture
def ledger(store: MemoryStateStore) -> StateLedger:
    return StateLedger(store)


@pytest.fixture
def make_context(clock: FakeClock) -> MakeContext:
    """A context for an event; `answer_to` gives it a return address, `seconds` a deadline."""

    def make(
        event: Event,
        topic: str,
        *,
        answer_to: tuple[str, str] | None = ("agent.step.assistant", "opaque"),
        seconds: float | None = None,
        message_id: str = "11111111-1111-5111-8111-111111111111",
        subscription: str = "some.subscription",
        **fields: Any,
    ) -> Context:
        envelope = MessageEnvelope(
            topic=topic,
            body=event.to_body(),
            message_id=message_id,
            type=event.type_name,
            conversation_id="conversation-1",
            root_task_id="task-1",
            return_address=ReturnAddress(*answer_to) if answer_to else None,
            deadline_ms=None if seconds is None else clock.now_ms() + round(seconds * 1000),
            **fields,
        )
        return Context(envelope, clock=clock, source="test", subscription=subscription)

    return make


@pytest.fixture
def make_services(clock: FakeClock, store: MemoryStateStore, ledger: StateLedger) -> MakeServices:
    def make(**settings: Any) -> Services:
        made = Settings(**settings)
        return Services(
            settings=made,
            state=store,
            ledger=ledger,
            clock=clock,
            ids=SequenceIds(),
            owner="host-1",
            tools=lambda: (),
            agents=Roster(made, clock),
        )

    return make


@pytest.fixture
def chain_of() -> Callable[..., Chain]:
    """A chain of plug-ins and of extra links, as the host composes it."""

    def compose(
        services: Services, *plugins: Plugin, links: tuple[tuple[int, str, EventHandler[Any]], ...] = ()
    ) -> Chain:
        contributions: list[Contribution] = [plugin(services) for plugin in plugins]
        events = [*HOST_EVENTS, *(event for added in contributions for event in added.events)]
        mine = [(link.order, link.name, link.handler) for added in contributions for link in added.links]
        return Chain([*mine, *links], EventRegistry(events))

    return compose


@pytest.fixture
async def harness(amqp_url: str) -> AsyncIterator[RabbitHarness]:
    """A namespace of its own on a real broker."""
    harness = RabbitHarness(amqp_url)
    yield harness
    await harness.close()
