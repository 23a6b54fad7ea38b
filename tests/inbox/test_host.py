"""Hosts with subscriptions that are ordered and remember: composed as they run, over one bus and one store."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from inbox.office import until

from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.host import Host
from rockbot.inbox import BlockedKeys
from rockbot.plugins import Contribution, Link, Plugin, Services
from rockbot.settings import Settings
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot_handlers.deduplication.plugin import plugin as deduplication
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription


class Entry(Event):
    type_name: ClassVar[str] = "test.entry"
    topics: ClassVar[tuple[str, ...]] = ("entry.*",)
    text: str


class Book:
    """Writes each entry at the end of its page; an entry that is written twice or out of order would be seen."""

    handles = (Entry,)

    def __init__(self, state: Any, held: asyncio.Event, refused: set[str]) -> None:
        self._state, self._held, self._refused = state, held, refused

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        assert isinstance(event, Entry)
        await self._held.wait()
        if event.text in self._refused:
            raise PermanentFailure("illegible")
        page = context.key("page", context.envelope.conversation_id or "")
        entry = await self._state.get(page)
        written = entry.value if entry else b""
        context.effects.put(page, written + event.text.encode() + b" ", expect=entry.version if entry else 0)


SETTINGS = Settings(
    subscriptions={"book": {"order": {"by": "conversation"}, "remember_seconds": 3600, "concurrency": 4}},  # type: ignore[dict-item]
    host={"drain_seconds": 5},  # type: ignore[arg-type]
)


def _host(broker: MemoryBroker, store: Any, held: asyncio.Event, refused: set[str]) -> Host:
    def book(services: Services) -> Contribution:
        return Contribution(
            links=(Link(Order.WORK, "book", Book(services.state, held, refused)),),
            subscriptions=(WorkSubscription(name="book", patterns=("entry.*",)),),
            events=(Entry,),
        )

    plugins: list[tuple[str, Plugin]] = [("deduplication", deduplication), ("book", book)]
    return compose(SETTINGS, bus=MemoryBus(broker=broker), store=store, plugins=plugins).host()


def _entry(page: str, number: int) -> MessageEnvelope:
    return MessageEnvelope(
        topic="entry.new",
        body=Entry(text=str(number)).to_body(),
        message_id=f"{page}-{number}",
        type=Entry.type_name,
        conversation_id=page,
    )


class _Lasting:
    """A store that outlives the hosts that close it."""

    def __init__(self) -> None:
        self._inner = MemoryStateStore(SystemClock())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def close(self) -> None:
        pass


async def _page(store: Any, name: str) -> str:
    entry = await store.get(key("default", "page", name))
    return entry.value.decode().strip() if entry else ""


async def test_two_hosts_write_every_page_in_order_and_every_entry_once() -> None:
    broker, store = MemoryBroker(), _Lasting()
    held, refused = asyncio.Event(), {"3"}
    hosts = [_host(broker, store, held, refused) for _ in range(2)]
    for host in hosts:
        await host.start()
    publisher = MemoryBus(broker=broker)
    await publisher.open()
    pages = ("one", "two", "three")
    for number in range(8):
        for page in pages:
            await publisher.publish(_entry(page, number))
            await publisher.publish(_entry(page, number))
    held.set()
    desk = BlockedKeys(store)
    async with asyncio.timeout(60):
        while len(await desk.list("book")) < 3:
            await asyncio.sleep(0.01)
    assert {page: await _page(store, page) for page in pages} == dict.fromkeys(pages, "0 1 2")
    assert {blocked.reason for blocked in await desk.list("book")} == {"illegible"}
    refused.clear()
    for page in pages:
        await publisher.dead_letters.replay("book", f"{page}-3")
    async with asyncio.timeout(60):
        while {await _page(store, page) for page in pages} != {"0 1 2 3 4 5 6 7"}:
            await asyncio.sleep(0.01)
    for host in hosts:
        await host.close()
    await publisher.close()


async def test_a_host_that_drains_finishes_what_is_under_way_and_the_next_goes_on() -> None:
    broker, store = MemoryBroker(), _Lasting()
    held = asyncio.Event()
    first = _host(broker, store, held, set())
    await first.start()
    publisher = MemoryBus(broker=broker)
    await publisher.open()
    for number in range(5):
        await publisher.publish(_entry("one", number))
    await until(lambda: not broker.queues["rockbot.book"].ready)
    draining = asyncio.ensure_future(first.drain())
    await asyncio.sleep(0)
    held.set()
    assert await draining == 0
    await first.close()
    assert await _page(store, "one") in ("", "0")
    second = _host(broker, store, held, set())
    await second.start()
    async with asyncio.timeout(60):
        while await _page(store, "one") != "0 1 2 3 4":
            await asyncio.sleep(0.01)
    await second.close()
    await publisher.close()
