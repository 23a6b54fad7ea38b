"""Letters that hold up a key and will not come back: whoever puts them away lets the key go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from inbox.conftest import OpenOffice
from inbox.office import ORDERS, Office, Story, order, until

from rockbot.inbox import BlockedKeys
from rockbot.letters.models import LetterFilter, Progress, ReplayOptions
from rockbot.letters.service import LetterService
from rockbot.settings_delivery import LetterSettings
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.verdicts import Ack, DeadLetter, Verdict

WHICH = LetterFilter(queue="orders")


def _service(office: Office, store: MemoryStateStore, clock: FakeClock, **settings: Any) -> LetterService:
    return LetterService(
        letters=office.bus.dead_letters,
        publisher=office.bus.publisher,
        store=store,
        clock=clock,
        ids=SequenceIds(),
        owner="desk",
        namespace="rockbot",
        source="tests",
        settings=LetterSettings(**settings),
    )


async def _until_held_up(store: MemoryStateStore) -> None:
    async with asyncio.timeout(60):
        while len(await BlockedKeys(store).list("orders")) < 2:
            await asyncio.sleep(0.001)


async def _blocked_office(open_office: OpenOffice, story: Story, store: MemoryStateStore) -> Office:
    """`a1` is a dead letter that `a2` and `a3` wait for; `b1` is another key's, with `b2` behind it."""

    def answer(envelope: MessageEnvelope) -> Verdict:
        return DeadLetter(reason="illegible") if envelope.message_id.endswith("1") else Ack()

    story.answer = answer
    office = await open_office()
    await office.get("a1", "a2", "a3", "b1", "b2")
    await _until_held_up(store)
    return office


async def _held_up(store: MemoryStateStore) -> set[str]:
    return {held.key for held in await BlockedKeys(store).list("orders")}


@pytest.mark.parametrize("way", ["discard", "purge", "expire", "new id"])
async def test_a_letter_that_will_not_come_back_lets_its_key_go_on(
    way: str, open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    office = await _blocked_office(open_office, story, store)
    clock.advance(3 * 86_400)
    desk = _service(office, store, clock, keep_days=1 if way == "expire" else 0)
    match way:
        case "discard":
            steps: AsyncIterator[Progress] | None = desk.discard(WHICH, reason="no use", actor="me")
        case "purge":
            steps = desk.purge("orders", expect=2, actor="me", reason="no use")
        case "expire":
            await desk.scanner.run_once()
            await desk.scanner.run_once()
            steps = None
        case _:
            steps = desk.replay(WHICH, ReplayOptions(new_id=True), actor="me")
    if steps is not None:
        assert [step async for step in steps][-1].worked == 2
    assert await _held_up(store) == set()
    await office.inboxes.scan()
    await until(lambda: story.handled["a"] == ["a2", "a3"] and story.handled["b"] == ["b2"])


async def test_one_letter_of_several_lets_only_its_own_key_go_on(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    office = await _blocked_office(open_office, story, store)
    desk = _service(office, store, clock)
    which = LetterFilter(queue="orders", ids=("a1",))
    assert [step async for step in desk.discard(which, reason="no use", actor="me", dry_run=True)][-1].worked == 1
    assert await _held_up(store) == {"a", "b"}, "a dry run let keys go on"
    assert [step async for step in desk.discard(which, reason="no use", actor="me")][-1].worked == 1
    assert await _held_up(store) == {"b"}


async def test_a_letter_that_is_replayed_still_goes_first(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    office = await _blocked_office(open_office, story, store)
    story.answer = None
    await office.consume()
    desk = _service(office, store, clock)
    assert [step async for step in desk.replay(WHICH, ReplayOptions(), actor="me")][-1].worked == 2
    await until(lambda: story.handled["a"] == ["a1", "a2", "a3"] and story.handled["b"] == ["b1", "b2"])


async def test_a_letter_of_another_tenant_lets_no_key_of_ours_go_on(
    open_office: OpenOffice, story: Story, store: MemoryStateStore
) -> None:
    story.answer = lambda _: DeadLetter(reason="illegible")
    office = await open_office(subscription=ORDERS)
    await office.receive(order("a1", tenant="ours"))
    await office.receive(order("a1", tenant="theirs"))
    await _until_held_up(store)
    desk = BlockedKeys(store)
    assert [held.tenant for held in await desk.gone("orders", {("theirs", "a1")})] == ["theirs"]
    assert [held.tenant for held in await desk.list("orders")] == ["ours"]
