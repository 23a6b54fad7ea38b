"""Letters as lines, out of one broker and into another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

import pytest
from letters.scene import Scene, done, first_step

from rockbot.letters.models import ExportedLetter, LetterFilter
from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import LetterNotFound


async def _lines(lines: Iterable[ExportedLetter]) -> AsyncIterator[ExportedLetter]:
    for line in lines:
        yield line


async def _export(scene: Scene, **which: str) -> list[ExportedLetter]:
    return [line async for line in scene.desk.export(LetterFilter(**which))]  # type: ignore[arg-type]


async def test_an_export_changes_nothing_and_a_load_puts_everything_back(scene: Scene) -> None:
    await scene.bury_many(250, body=b"\x00\xff", headers={"n": 1}, return_address=ReturnAddress("agent.step.x", "t"))
    await scene.bury("bill-1", queue="bills", tenant="acme")
    before = [await scene.bus.dead_letters.letters(queue, limit=1000) for queue in ("orders", "bills")]
    lines = [ExportedLetter.model_validate_json(line.model_dump_json()) for line in await _export(scene)]
    assert len(lines) == 251
    assert [await scene.bus.dead_letters.letters(queue, limit=1000) for queue in ("orders", "bills")] == before
    assert await scene.desk.audit() == []
    for queue, count in (("orders", 250), ("bills", 1)):
        await done(scene.desk.purge(queue, expect=count, actor="me", reason="moved"))
    last = await done(scene.desk.load(_lines(lines), actor="me"))
    assert (last.worked, last.seen, last.refusals) == (251, 251, 0)
    assert [await scene.bus.dead_letters.letters(queue, limit=1000) for queue in ("orders", "bills")] == before
    rows = await scene.indexed("orders")
    assert (await done(scene.desk.scan())).worked == 0
    assert await scene.indexed("orders") == rows
    assert {(entry.action, entry.queue, entry.count) for entry in await scene.desk.audit()} >= {
        ("import", "orders", 250),
        ("import", "bills", 1),
    }


async def test_a_load_that_was_broken_off_is_finished_without_doubles(scene: Scene) -> None:
    await scene.bury_many(250)
    lines = await _export(scene)
    await done(scene.desk.purge("orders", expect=250, actor="me", reason="moved"))
    step = await first_step(scene.desk.load(_lines(lines), actor="me"))
    assert (step.worked, step.done) == (100, False)
    last = await done(scene.service().load(_lines(lines), actor="me"))
    assert (last.worked, last.seen) == (150, 250)
    assert len(await scene.ids_in()) == 250


async def test_a_load_into_another_queue(scene: Scene) -> None:
    await scene.bury("letter-1")
    (line,) = await _export(scene)
    assert (await done(scene.desk.load(_lines([line]), actor="me", queue="bills"))).worked == 1
    assert await scene.ids_in("bills") == ["letter-1"]
    with pytest.raises(LetterNotFound):
        await done(scene.desk.load(_lines([line]), actor="me", queue="nobody"))
    with pytest.raises(InvalidRequest):
        await done(scene.desk.load(_lines([line]), actor="me", queue="discarded"))


async def test_lines_that_are_no_letters_are_told_and_the_others_are_loaded(scene: Scene) -> None:
    await scene.bury("letter-1")
    (line,) = await _export(scene)
    await done(scene.desk.purge("orders", expect=1, actor="me", reason="x"))
    bad = [
        line.model_copy(update={"id": "a", "envelope": "!!!"}),
        line.model_copy(update={"id": "b", "envelope": "AAAA"}),
        line.model_copy(update={"id": "c", "queue": "nobody"}),
    ]
    last = await done(scene.desk.load(_lines([*bad, line, line]), actor="me"))
    assert (last.worked, last.refusals, [each for each, _ in last.refused]) == (1, 3, ["a", "b", "c"])
    assert await scene.ids_in() == ["letter-1"]


async def test_nobody_vouches_for_the_user_of_a_loaded_letter(scene: Scene) -> None:
    await scene.bury("letter-1", user_id="root")
    (line,) = await _export(scene)
    await done(scene.desk.purge("orders", expect=1, actor="me", reason="x"))
    await done(scene.desk.load(_lines([line]), actor="me"))
    assert (await scene.bus.dead_letters.letter("orders", "letter-1")).envelope.user_id is None


async def test_an_export_picks_what_fits_and_knows_where_discarded_letters_lay(scene: Scene) -> None:
    await scene.bury_many(3, error="KeyError")
    await scene.bury("other-1")
    assert len(await _export(scene, error="KeyError")) == 3
    await done(scene.desk.discard(LetterFilter(), reason="x", actor="me"))
    assert {line.queue for line in await _export(scene, queue="discarded")} == {"orders"}
    assert await _export(scene) == []


async def test_an_export_that_is_left_lets_go_of_the_queue(scene: Scene) -> None:
    await scene.bury_many(450)
    async with aclosing(scene.desk.export(LetterFilter())) as lines:  # type: ignore[type-var]
        await anext(aiter(lines))
    assert len(await scene.ids_in()) == 450
