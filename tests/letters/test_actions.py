"""Sending on, putting away, restoring and erasing many letters; stopped, killed and begun again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
from letters.scene import BILLS, Scene, done, first_step

from rockbot.letters.index import LetterIndex
from rockbot.letters.models import LetterFilter, ReplayOptions
from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import LetterNotFound, LettersBusy
from rockbot_messaging.letters import Failure, Letter
from rockbot_messaging.measures import Names
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.verdicts import DeadLetter

AS_IT_IS = ReplayOptions()


async def _replay(scene: Scene, options: ReplayOptions = AS_IT_IS, **which: Any) -> Any:
    return await done(scene.desk.replay(LetterFilter(**which), options, actor="me"))


async def test_a_replay_sends_on_what_fits_and_leaves_the_rest(scene: Scene) -> None:
    await scene.bury_many(5, error="KeyError")
    await scene.bury_many(3, "other")
    last = await _replay(scene, error="KeyError")
    assert (last.worked, last.seen, last.total, last.refusals, last.action) == (5, 8, 5, 0, "replay")
    recorder = await scene.consume()
    sent = await recorder.wait_for(5)
    assert [each.message_id for each in sent] == [f"letter-{number:04}" for number in range(5)]
    assert {(each.attempt, each.history, each.topic) for each in sent} == {(1, (), "order.created")}
    assert await scene.ids_in() == [f"other-{number:04}" for number in range(3)]
    assert [row.id for row in await scene.rows()] == await scene.ids_in()


async def test_the_index_follows_without_another_scan(scene: Scene) -> None:
    await scene.bury_many(450)
    (before, *_) = await scene.desk.queues()
    async with aclosing(scene.desk.replay(LetterFilter(queue="orders"), AS_IT_IS, actor="me")) as steps:  # type: ignore[type-var]
        told = [(step.worked, len(await scene.indexed("orders"))) async for step in steps]
    assert told == [(200, 250), (400, 50), (450, 0), (450, 0)]
    (after, *_) = await scene.desk.queues()
    assert after.scanned_ms == before.scanned_ms


async def test_several_queues_are_worked_one_after_another(scene: Scene) -> None:
    await scene.bury_many(2)
    await scene.bury_many(2, "bill", queue="bills", topic="bill.sent")
    last = await _replay(scene)
    assert last.worked == 4
    bills = await scene.consume(BILLS)
    assert [each.message_id for each in await bills.wait_for(2)] == ["bill-0000", "bill-0001"]
    assert {entry.queue: entry.count for entry in await scene.desk.audit()} == {"orders": 2, "bills": 2}


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(scene: Scene) -> None:
    ids = await scene.bury_many(3)
    last = await _replay(scene, ReplayOptions(dry_run=True))
    put_away = await done(scene.desk.discard(LetterFilter(), reason="x", actor="me", dry_run=True))
    assert (last.worked, last.dry_run, put_away.worked, put_away.dry_run) == (3, True, 3, True)
    assert await scene.ids_in() == ids
    assert await scene.desk.audit() == []
    assert scene.measures.value(Names.LETTERS_WORKED, queue="orders", action="replay") == 0


async def test_the_beginning_of_an_id_means_one_letter_or_none_is_touched(scene: Scene) -> None:
    for each in ("order-1", "order-10", "order-11"):
        await scene.bury(each)
    with pytest.raises(LetterNotFound, match="order-10, order-11"):
        await _replay(scene, ids=("order-1", "order-"))
    assert len(await scene.ids_in()) == 3
    assert (await _replay(scene, ids=("order-1",))).worked == 1, "a whole id is no beginning of others"
    assert await scene.ids_in() == ["order-10", "order-11"]
    assert (await _replay(scene, ids=("gone-before", "order-10"))).worked == 1, "one that is gone is no error"


async def test_a_letter_that_dies_after_the_call_began_is_left_alone(scene: Scene) -> None:
    recorder = Recorder(lambda _: DeadLetter(reason="still bad"))
    await scene.bury_many(20)
    await scene.bus.subscriber.subscribe(WorkSubscription(name="orders", patterns=("order.#",)), recorder)
    await _replay(scene, ReplayOptions(rate=2))
    assert len(recorder.ids) == len(set(recorder.ids)) == 20
    assert len(await scene.ids_in()) == 20


async def test_a_rate_is_kept_and_lets_others_at_the_queue(scene: Scene) -> None:
    await scene.bury_many(40)
    started = scene.clock.monotonic()
    looked: list[str] = []

    async def look() -> None:
        looked.append((await scene.bus.dead_letters.letter("orders", "letter-0039")).id)

    watcher: asyncio.Task[None] | None = None
    async with aclosing(scene.desk.replay(LetterFilter(), ReplayOptions(rate=1), actor="me")) as steps:  # type: ignore[type-var]
        async for step in steps:
            assert step.worked <= scene.clock.monotonic() - started + 1.001
            if watcher is None:
                watcher = asyncio.create_task(look())
            if step.worked == 30:
                assert looked, "the queue was held for the whole replay"
    assert (step.worked, step.seen) == (40, 40)
    assert scene.clock.monotonic() - started == pytest.approx(39, abs=1)
    assert watcher
    await watcher
    assert await scene.ids_in() == []


async def test_a_new_id_is_given_where_nobody_waits_for_the_old_one(scene: Scene) -> None:
    await scene.bury_many(2)
    await _replay(scene, ReplayOptions(new_id=True))
    recorder = await scene.consume()
    sent = await recorder.wait_for(2)
    assert [each.causation_id for each in sent] == ["letter-0000", "letter-0001"]
    assert len({each.message_id for each in sent} | {"letter-0000", "letter-0001"}) == 4


async def test_a_new_id_for_a_step_of_a_turn_is_refused_before_anything_is_done(scene: Scene) -> None:
    await scene.bury("plain-1")
    await scene.bury("stepping", return_address=ReturnAddress("agent.step.x", "t"))
    await scene.bury("toolcall", type="rockbot.tool.invoke")
    with pytest.raises(InvalidRequest, match=r"stepping.*1 more"):
        await _replay(scene, ReplayOptions(new_id=True))
    assert len(await scene.ids_in()) == 3
    assert (await _replay(scene, ReplayOptions(new_id=True), ids=("plain-1",))).worked == 1


async def test_an_unrouted_letter_is_worked_with_the_same_calls(scene: Scene) -> None:
    for each in ("lost-1", "lost-2"):
        await scene.bury(each, queue="unrouted", topic="parcel.sent", error="", handler="")
    await scene.bury("lost-3", queue="unrouted", topic="order.created", error="", handler="")
    last = await _replay(scene, queue="unrouted")
    assert (last.worked, last.refusals) == (1, 2)
    assert {each for each, why in last.refused if "nobody receives" in why} == {"lost-1", "lost-2"}
    assert [row.id for row in await scene.rows(queue="unrouted")] == ["lost-1", "lost-2"]
    (entry,) = await scene.desk.audit()
    assert (entry.count, entry.letters) == (1, ("lost-3",))
    parcels = await scene.consume(WorkSubscription(name="parcels", patterns=("parcel.#",)))
    assert (await _replay(scene, queue="unrouted", ids=("lost-1",))).worked == 1
    assert (await parcels.wait_for(1))[0].message_id == "lost-1"
    assert (await done(scene.desk.discard(LetterFilter(queue="unrouted"), reason="x", actor="me"))).worked == 1
    assert (await done(scene.desk.restore(LetterFilter(queue="unrouted"), actor="me"))).worked == 1
    assert await scene.ids_in("unrouted") == ["lost-2"]


async def test_letters_whose_sending_fails_stay_and_stay_listed_also_under_a_rate(scene: Scene) -> None:
    await scene.bury_many(30, queue="unrouted", topic="parcel.sent", error="")
    last = await _replay(scene, ReplayOptions(rate=1), queue="unrouted")
    assert (last.worked, last.refusals, last.seen) == (0, 30, 30)
    assert len(await scene.rows(queue="unrouted")) == 30
    assert await scene.desk.audit() == []


async def test_discarded_letters_are_restored_to_where_they_lay(scene: Scene) -> None:
    ids = await scene.bury_many(3)
    await scene.bury("bill-1", queue="bills")
    rows = await scene.rows()
    last = await done(scene.desk.discard(LetterFilter(), reason="not needed", actor="me"))
    assert (last.worked, await scene.ids_in(), await scene.rows()) == (4, [], ())
    assert (await done(scene.desk.restore(LetterFilter(queue="bills"), actor="me"))).worked == 1
    assert (await done(scene.desk.restore(LetterFilter(ids=(ids[1],)), actor="me"))).worked == 1
    assert await scene.ids_in("bills") == ["bill-1"]
    assert (await done(scene.desk.restore(LetterFilter(), actor="me"))).worked == 2
    assert await scene.rows() == rows
    assert [(entry.action, entry.count) for entry in (await scene.desk.audit())[:3]] == [
        ("restore", 2),
        ("restore", 1),
        ("restore", 1),
    ]
    for act in (
        scene.desk.replay(LetterFilter(queue="discarded"), AS_IT_IS, actor="me"),
        scene.desk.discard(LetterFilter(queue="discarded"), reason="", actor="me"),
    ):
        with pytest.raises(InvalidRequest, match="restore"):
            await done(act)


async def test_a_purge_erases_no_more_than_was_expected(scene: Scene) -> None:
    await scene.bury_many(3)
    with pytest.raises(InvalidRequest, match="has 3 letters, and 2 were expected"):
        await done(scene.desk.purge("orders", expect=2, actor="me", reason="old"))
    last = await done(scene.desk.purge("rockbot.orders.dlq", expect=3, actor="me", reason="old"))
    assert (last.worked, await scene.ids_in(), await scene.rows(queue="discarded")) == (3, [], ())
    await scene.bury("letter-9")
    await done(scene.desk.discard(LetterFilter(), reason="x", actor="me"))
    with pytest.raises(InvalidRequest):
        await done(scene.desk.purge("discarded", expect=0, actor="me", reason="gone"))
    assert (await done(scene.desk.purge("discarded", expect=1, actor="me", reason="gone"))).worked == 1
    assert await scene.rows(queue="discarded") == ()


async def test_leaving_an_action_stops_it_after_the_batch_in_hand(scene: Scene) -> None:
    await scene.bury_many(500)
    assert await scene.rows_of("orders") == 500
    step = await first_step(scene.desk.replay(LetterFilter(), AS_IT_IS, actor="me"))
    assert (step.worked, step.done) == (200, False)
    assert len(await scene.ids_in()) == len(await scene.indexed("orders")) == 300
    (entry,) = await scene.desk.audit()
    assert entry.count == 200
    assert len(await scene.rows()) == 300
    assert (await _replay(scene)).worked == 300
    recorder = await scene.consume()
    assert len({message.message_id for message in await recorder.wait_for(500)}) == 500


@pytest.mark.parametrize("action", ["replay", "discard", "purge"])
async def test_an_action_killed_at_any_batch_is_finished_by_the_next_run(scene: Scene, action: str) -> None:
    """The process is gone between two batches: nothing of it says goodbye, and another one begins the action again."""
    ids = await scene.bury_many(450)
    dying = MemoryBus(broker=scene.broker)
    await dying.open()
    service = scene.service(bus=dying)
    steps = _act(service, action)
    step = await anext(steps)
    assert step.worked == 200
    await dying.kill()
    with pytest.raises(Exception):  # noqa: B017 - whatever it dies of
        async for _ in steps:
            pass
    scene.clock.advance(120)  # what it said about being at work is over
    again = scene.service()
    assert [row.id for row in await scene.rows(again)] == await scene.ids_in()
    await done(_act(again, action))
    assert await scene.ids_in() == []
    assert await scene.rows(again) == ()
    if action == "replay":
        recorder = await scene.consume()
        assert sorted({each.message_id for each in await recorder.wait_for(len(ids))}) == ids
    if action == "discard":
        assert len(await scene.rows(queue="discarded")) == len(ids)


def _act(service: Any, action: str) -> Any:
    which = LetterFilter(queue="orders")
    if action == "replay":
        return service.replay(which, AS_IT_IS, actor="me")
    if action == "discard":
        return service.discard(which, reason="x", actor="me")
    return service.purge("orders", expect=450, actor="me", reason="x")


async def test_a_restore_killed_between_storing_and_removing_is_finished(scene: Scene) -> None:
    await scene.bury_many(3)
    await done(scene.desk.discard(LetterFilter(), reason="x", actor="me"))
    await done(scene.desk.restore(LetterFilter(ids=("letter-0001",)), actor="me"))
    # Killed there, the broker has both copies: the letter in its queue again, and among the discarded.
    await scene.bus.dead_letters.walk("orders", _copy(scene))
    assert (await done(scene.desk.restore(LetterFilter(), actor="me"))).worked == 2
    assert sorted(await scene.ids_in()) == ["letter-0000", "letter-0001", "letter-0001", "letter-0002"]
    first = await scene.rows()
    assert [row.id for row in first] == ["letter-0000", "letter-0001", "letter-0002"], "copies are one row"
    scans = (await scene.desk.queues())[0].scanned_ms
    scene.clock.advance(5)
    await scene.rows()
    assert (await scene.desk.queues())[0].scanned_ms == scans, "copies must not lead to a scan with every question"
    assert (await _replay(scene)).worked == 4


def _copy(scene: Scene) -> Any:
    from rockbot_messaging.letters import Keep

    async def decide(letters: Sequence[Letter]) -> Sequence[Any]:
        for letter in letters:
            await scene.bus.dead_letters.bury("orders", letter.envelope, letter.failure)
        return [Keep()] * len(letters)

    return decide


async def test_every_action_is_written_down_logged_and_counted_and_no_body_is(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rockbot.letters")
    await scene.bury_many(3, body=b'{"password": "open sesame"}')
    await _replay(scene, ids=("letter-0000",))
    scene.clock.advance(1)
    await done(scene.desk.discard(LetterFilter(error="ValueError"), reason="spam", actor="you"))
    put_away, sent = await scene.desk.audit()
    assert (sent.action, sent.actor, sent.queue, sent.count, sent.letters) == (
        "replay",
        "me",
        "orders",
        1,
        ("letter-0000",),
    )
    assert (put_away.action, put_away.actor, put_away.reason, put_away.count) == ("discard", "you", "spam", 2)
    assert "ValueError" in put_away.detail
    assert await scene.desk.audit(limit=1) == [put_away]
    assert scene.measures.value(Names.LETTERS_WORKED, queue="orders", action="discard") == 2
    records = [record for record in caplog.records if record.name.startswith("rockbot.letters")]
    assert [(record.action, record.count) for record in records] == [("replay", 1), ("discard", 2)]  # type: ignore[attr-defined]
    assert not any("sesame" in str(record.__dict__) for record in records)


async def test_while_an_action_is_at_work_questions_do_not_wait_for_it(scene: Scene) -> None:
    await scene.bury_many(450)
    await scene.rows()
    async with aclosing(scene.desk.replay(LetterFilter(), AS_IT_IS, actor="me")) as steps:  # type: ignore[type-var]
        await anext(aiter(steps))
        async with asyncio.timeout(60):
            assert len(await scene.rows(scene.service())) == 250


async def test_two_services_replay_the_same_letters_once(scene: Scene) -> None:
    await scene.bury_many(300)
    both = await asyncio.gather(*(done(_act(service, "replay")) for service in (scene.desk, scene.service())))
    assert sum(last.worked for last in both) == 300
    recorder = await scene.consume()
    assert len(await recorder.wait_for(300)) == 300


async def test_letters_from_a_host_whose_clock_is_ahead_are_worked_like_others(scene: Scene) -> None:
    await scene.bury("letter-now")
    for number in range(2):
        message = MessageEnvelope(topic="order.new", body=b"{}", message_id=f"letter-ahead-{number}", type="")
        at_ms = scene.clock.now_ms() + 86_400_000 * number + 1
        failure = Failure(reason="bad", queue="orders", topic=message.topic, at_ms=at_ms)
        await scene.bus.dead_letters.bury("orders", message, failure)
    await scene.rows()
    last = await _replay(scene, queue="orders", ids=("letter-ahead-0",))
    assert last.worked == 1
    last = await _replay(scene, queue="orders")
    assert (last.worked, last.total) == (2, 2)


async def test_who_is_at_work_is_told_and_whoever_is_refused_takes_nobodys_mark_away(scene: Scene) -> None:
    index = LetterIndex(scene.store)
    said = await index.working("orders", "replay by ada")
    with pytest.raises(LettersBusy, match=r"^taken\. At work there: replay by ada$"):
        async with index.telling_who_works("orders"):
            raise LettersBusy("taken")
    mine = await index.working("orders", "discard by bob")
    await index.done("orders", said)
    assert await index.at_work("orders") == "discard by bob"
    await index.done("orders", mine)
    assert await index.at_work("orders") is None


async def test_a_discarded_letters_row_says_whence_when_and_why(scene: Scene) -> None:
    await scene.bury("letter-1")
    (before,) = await scene.rows()
    await done(scene.desk.discard(LetterFilter(queue="orders"), reason="too old", actor="me"))
    (row,) = (await scene.desk.find(LetterFilter(queue="discarded"))).letters
    assert (row.discarded_from, row.discarded_ms, row.discarded_reason) == ("orders", scene.clock.now_ms(), "too old")
    assert (row.queue, row.group) == ("discarded", before.group), "a group stays a group when it is put away"
    await done(scene.desk.restore(LetterFilter(group=before.group), actor="me"))
    (row,) = await scene.rows()
    assert (row.discarded_from, row.discarded_ms, row.discarded_reason) == ("", None, "")
