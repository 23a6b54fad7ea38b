"""Lists, filters, pages and groups: what is answered from the index."""

from __future__ import annotations

from typing import Any

import pytest
from letters.scene import Scene, done

from rockbot.letters.index import LetterIndex
from rockbot.letters.models import LetterFilter
from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import LetterNotFound


async def test_queues_are_summed_up_and_the_unrouted_one_is_last(scene: Scene) -> None:
    started = scene.clock.now_ms()
    await scene.bury_many(3)
    scene.clock.advance(3600)
    await scene.bury("late-1")
    orders, bills, unrouted = await scene.desk.queues()
    assert (orders.name, orders.subscription, orders.depth, orders.indexed) == ("rockbot.orders.dlq", "orders", 4, 4)
    assert (orders.oldest_ms, orders.newest_ms, orders.per_hour) == (started, started + 3_603_000, 1)
    assert (bills.depth, bills.oldest_ms, bills.newest_ms) == (0, None, None)
    assert unrouted.subscription == "unrouted"


async def _filled(scene: Scene) -> None:
    await scene.bury("aaaaaa-1", error="KeyError", type="shop.order", conversation_id="c1", root_task_id="t1")
    scene.clock.advance(10)
    await scene.bury("aaaaaa-2", handler="till", topic="order.paid.eu", reason="Straße gesperrt", body=b"plain TEXT")
    scene.clock.advance(10)
    await scene.bury("bbbbbb-3", type="shop.bill", queue="bills", topic="bill.sent", body=b"\xff\x00")


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({}, "123"),
        ({"queue": "orders"}, "12"),
        ({"queue": "rockbot.bills.dlq"}, "3"),
        ({"queue": "unrouted"}, ""),
        ({"ids": ("aaaaaa-1",)}, "1"),
        ({"ids": ("aaaaaa",)}, "12"),
        ({"ids": ("aaa", "bbbbbb")}, "3"),
        ({"type": "shop.bill"}, "3"),
        ({"type": "shop"}, ""),
        ({"error": "KeyError"}, "1"),
        ({"error": ""}, ""),
        ({"handler": "till"}, "2"),
        ({"topic": "order.#"}, "12"),
        ({"topic": "order.*"}, "1"),
        ({"topic": "*.created"}, "1"),
        ({"topic": "order.paid.eu.#"}, "2"),
        ({"topic": "order.paid"}, ""),
        ({"topic": "#"}, "123"),
        ({"conversation": "c1"}, "1"),
        ({"conversation": ""}, "23"),
        ({"task": "t1"}, "1"),
        ({"text": "STRASSE"}, "2"),
        ({"text": "plain text"}, "2"),
        ({"text": '"items"'}, "1"),
        ({"text": "bill.SENT"}, "3"),
        ({"text": "shop.o"}, "12"),
        ({"type": "shop.order", "handler": "shop", "text": "items"}, "1"),
        ({"since_ms": 10_000}, "23"),
        ({"before_ms": 10_000}, "1"),
        ({"since_ms": 10_000, "before_ms": 20_000}, "2"),
    ],
)
async def test_a_filter_finds_what_fits_it(scene: Scene, which: dict[str, Any], expected: str) -> None:
    start = scene.clock.now_ms()
    await _filled(scene)
    asked = {name: value + start if name.endswith("_ms") else value for name, value in which.items()}
    assert "".join(row.id[-1] for row in await scene.rows(**asked)) == expected


@pytest.mark.parametrize("theirs", ["42", "order-7", 'a "quoted" \\ ä id'])
async def test_a_letter_is_found_and_worked_by_the_id_that_its_publisher_gave_it(scene: Scene, theirs: str) -> None:
    await scene.bury("aaaaaa-1", foreign_id=theirs, correlation_id="basket-9")
    await scene.bury("bbbbbb-2", foreign_id=f"{theirs}0")
    (row,) = await scene.rows(ids=(theirs,))
    assert (row.id, row.foreign_id, row.correlation_id) == ("aaaaaa-1", theirs, "basket-9")
    assert [row.id for row in await scene.rows(text="BASKET")] == ["aaaaaa-1"]
    assert {row.id for row in await scene.rows(text=theirs)} == {"aaaaaa-1", "bbbbbb-2"}
    assert (await scene.desk.letter("orders", "aaaaaa-1")).foreign_id == theirs
    progress = await done(scene.desk.discard(LetterFilter(ids=(theirs,)), reason="theirs", actor="me"))
    assert (progress.worked, [row.id for row in await scene.rows()]) == (1, ["bbbbbb-2"])


async def test_an_id_that_two_publishers_gave_means_no_single_letter(scene: Scene) -> None:
    await scene.bury("aaaaaa-1", foreign_id="42")
    await scene.bury("bbbbbb-2", foreign_id="42")
    with pytest.raises(LetterNotFound, match="aaaaaa-1, bbbbbb-2"):
        await done(scene.desk.discard(LetterFilter(ids=("42",)), reason="theirs", actor="me"))


async def test_every_group_finds_its_own_letters(scene: Scene) -> None:
    for number in range(4):
        await scene.bury(f"order-{number}", reason=f"order {number} has no items")
        scene.clock.advance(1)
    await scene.bury("unknown-1", reason="customer 7 is unknown")
    first, second = await scene.desk.groups(LetterFilter(queue="orders"))
    assert (first.reason, first.count, first.example, second.count) == ("order <n> has no items", 4, "order-3", 1)
    assert first.newest_ms - first.oldest_ms == 3000
    assert [row.id for row in await scene.rows(group=first.id)] == [f"order-{number}" for number in range(4)]
    assert [group.count for group in await scene.desk.groups(LetterFilter(text="customer"))] == [1]


@pytest.mark.parametrize("which", [{"topic": "no topic at all"}, {"since_ms": 5, "before_ms": 5}, {"ids": ("",)}])
async def test_a_filter_that_makes_no_sense_is_refused(scene: Scene, which: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await scene.desk.find(LetterFilter(**which))


async def test_an_unknown_queue_is_told_together_with_those_there_are(scene: Scene) -> None:
    with pytest.raises(LetterNotFound, match="orders, bills, unrouted"):
        await scene.desk.find(LetterFilter(queue="nobody"))


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_pages_show_every_letter_once_while_letters_come_and_go(scene: Scene, order: Any) -> None:
    ids = await scene.bury_many(20)
    await scene.bury_many(5, "bill", queue="bills")
    seen: list[str] = []
    after = None
    for number in range(100):
        page = await scene.desk.find(LetterFilter(), limit=3, after=after, order=order)
        seen += [row.id for row in page.letters]
        after = page.next
        if after is None:
            break
        # Behind the page and before it, letters go; new ones come at the end.
        gone = [each for each in ids if each not in seen][-1:] if order == "oldest" else []
        for each in [*seen[:1], *gone]:
            if each in ids:
                ids.remove(each)
                await done(scene.desk.discard(LetterFilter(ids=(each,)), reason="test", actor="me"))
        if number == 1:
            await scene.bury("newcomer")
            scene.clock.advance(1)
    assert len(seen) == len(set(seen))
    assert set(ids) <= set(seen)
    assert ("newcomer" in seen) == (order == "oldest")


async def test_a_page_tells_how_many_fit_and_where_to_go_on(scene: Scene) -> None:
    await scene.bury_many(5)
    first = await scene.desk.find(LetterFilter(), limit=3)
    rest = await scene.desk.find(LetterFilter(), limit=3, after=first.next)
    assert (first.total, len(first.letters), rest.total, len(rest.letters), rest.next) == (5, 3, 5, 2, None)
    exact = await scene.desk.find(LetterFilter(), limit=5)
    assert exact.next is None


async def test_a_continuation_that_is_none_is_refused(scene: Scene) -> None:
    await scene.bury_many(3)
    page = await scene.desk.find(LetterFilter(), limit=1)
    for after, order in (("garbage", "oldest"), ("W10=", "oldest"), (page.next, "newest"), ("e30", "oldest")):
        with pytest.raises(InvalidRequest):
            await scene.desk.find(LetterFilter(), limit=1, after=after, order=order)  # type: ignore[arg-type]
    for limit in (0, 1001):
        with pytest.raises(InvalidRequest):
            await scene.desk.find(LetterFilter(), limit=limit)


async def test_letters_of_all_tenants_are_listed_with_their_tenant(scene: Scene) -> None:
    for tenant in ("a", "b"):
        await scene.bury("same-id", tenant=tenant)
        scene.clock.advance(1)
    assert [row.tenant for row in await scene.rows()] == ["a", "b"]


async def test_strange_texts_are_listed(scene: Scene) -> None:
    await scene.bury(
        "odd/id #1", reason='\ud800 "quoted" \\ \n \x00 \U0001f600', topic="order.x", body="\U0001f600\n".encode()
    )
    (row,) = await scene.rows(text="\U0001f600")
    assert (row.id, row.excerpt) == ("odd/id #1", "\U0001f600\n")


async def test_a_letter_is_shown_whole(scene: Scene) -> None:
    await scene.bury(
        "letter-1",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        return_address=ReturnAddress("agent.step.x", "token"),
        headers={"colour": "red"},
    )
    view = await scene.desk.letter("orders", "letter")
    assert (view.id, view.queue, view.handler, view.headers) == ("letter-1", "orders", "shop", {"colour": "red"})
    assert view.body == '{"items": []}'
    assert view.traceparent
    assert view.group == (await scene.rows())[0].group
    assert "message_id" in view.locked
    assert "reply_to" in view.sensitive
    assert view.turn is None
    assert view.discarded_ms is None
    with pytest.raises(LetterNotFound):
        await scene.desk.letter("orders", "letter-2")


async def test_a_discarded_letter_can_be_listed_and_shown(scene: Scene) -> None:
    await scene.bury("letter-1")
    await done(scene.desk.discard(LetterFilter(), reason="a test", actor="me"))
    view = await scene.desk.letter("discarded", "letter-1")
    assert (view.discarded_reason, view.discarded_ms) == ("a test", scene.clock.now_ms())
    assert [row.id for row in await scene.rows(queue="discarded")] == ["letter-1"]
    assert await scene.rows() == ()
    scene.clock.advance(8 * 86_400)
    assert await scene.rows(queue="discarded") == ()


async def test_rows_of_another_space_are_no_letters(scene: Scene) -> None:
    await scene.bury("letter-1", queue="orders")
    await scene.rows()
    keys = [key async for page in LetterIndex(scene.store).pages("order") for key in page]
    assert keys == [], "a prefix of a queue's name listed its letters"
