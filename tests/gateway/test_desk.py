"""What the desk promises, near and over the socket alike: every method has a route, every error comes back as itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from gateway.fake_agent import FakeHost, bury, fake_host, served_host

from rockbot.gateway.app import create_app
from rockbot.gateway.client import SocketOperator
from rockbot.gateway.letters_api import AliveLine
from rockbot.gateway.server import serve
from rockbot.letters.models import Edit, ExportedLetter, LetterFilter, Progress, ReplayOptions
from rockbot.operator import Operator
from rockbot.operators.faults import HostUnreachable, InvalidRequest
from rockbot_messaging.errors import LetterNotFound

QUEUE = "agent.assistant"
GOOD = b'{"input": "mended"}'


async def last(steps: AsyncIterator[Progress]) -> Progress:
    """The end of a long action."""
    async with asyncio.timeout(60):
        found = [step async for step in steps]
    assert found[-1].done
    return found[-1]


async def letters_of(*letters: ExportedLetter) -> AsyncIterator[ExportedLetter]:
    for letter in letters:
        yield letter


async def test_queues_tell_depth_and_age(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    await bury(operated.bus, "letter-2", at_ms=1000)
    found = {queue.subscription: queue for queue in await operator.dead_letters.queues()}
    mine = found[QUEUE]
    assert (mine.name, mine.depth, mine.indexed, mine.per_hour) == ("rockbot.agent.assistant.dlq", 2, 2, 1)
    assert mine.oldest_ms == 1000
    assert found["unrouted"].depth == 0


async def test_letters_are_found_by_what_is_asked(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1", reason="no disk", conversation_id="talk", at_ms=1000)
    await bury(operated.bus, "letter-2", reason="no memory", error="MemoryError", handler="other", at_ms=2000)
    await bury(operated.bus, "letter-3", queue="unrouted", topic="a.b", type="x", at_ms=3000)
    desk = operator.dead_letters
    for which, expected in (
        (LetterFilter(), ["letter-1", "letter-2", "letter-3"]),
        (LetterFilter(queue=QUEUE), ["letter-1", "letter-2"]),
        (LetterFilter(ids=("letter-2", "letter-3")), ["letter-2", "letter-3"]),
        (LetterFilter(error="MemoryError"), ["letter-2"]),
        (LetterFilter(handler="agent", type="rockbot.agent.task"), ["letter-1"]),
        (LetterFilter(topic="a.*"), ["letter-3"]),
        (LetterFilter(conversation="talk"), ["letter-1"]),
        (LetterFilter(text="MEMORY"), ["letter-2"]),
        (LetterFilter(since_ms=2000, before_ms=3000), ["letter-2"]),
    ):
        page = await desk.find(which)
        assert ([row.id for row in page.letters], page.total) == (expected, len(expected)), which


async def test_pages_go_on_where_the_last_one_ended(operator: Operator, operated: FakeHost) -> None:
    for number in range(5):
        await bury(operated.bus, f"letter-{number}", at_ms=1000 + number)
    first = await operator.dead_letters.find(LetterFilter(), limit=3)
    second = await operator.dead_letters.find(LetterFilter(), limit=3, after=first.next)
    assert [row.id for row in (*first.letters, *second.letters)] == [f"letter-{number}" for number in range(5)]
    assert (first.total, second.next) == (5, None)
    newest = await operator.dead_letters.find(LetterFilter(), limit=1, order="newest")
    assert newest.letters[0].id == "letter-4"
    with pytest.raises(InvalidRequest):
        await operator.dead_letters.find(LetterFilter(), after="nonsense")


async def test_groups_count_what_letters_died_of(operator: Operator, operated: FakeHost) -> None:
    for number in range(3):
        await bury(operated.bus, f"letter-{number}", reason=f"no disk {number}")
    await bury(operated.bus, "letter-x", reason="other", error="KeyError")
    groups = await operator.dead_letters.groups(LetterFilter(queue=QUEUE))
    assert [(group.count, group.error_type, group.reason) for group in groups] == [
        (3, "OSError", "no disk <n>"),
        (1, "KeyError", "other"),
    ]
    page = await operator.dead_letters.find(LetterFilter(group=groups[0].id))
    assert page.total == 3


async def test_a_letter_is_told_whole(operator: Operator, operated: FakeHost) -> None:
    await bury(
        operated.bus,
        "letter-1",
        body=b"\xff\x00",
        headers={"k": "v"},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    letter = await operator.dead_letters.letter(QUEUE, "letter")
    assert (letter.id, letter.body_bytes, letter.headers, letter.handler) == (
        "letter-1",
        b"\xff\x00",
        {"k": "v"},
        "agent",
    )
    assert (letter.traceback, letter.history, letter.attempt) == ("Trace: here", ("attempt 1: no disk",), 3)
    assert letter.traceparent is not None
    assert "id" in letter.locked or letter.locked


async def test_unknown_queues_and_letters_are_named(operator: Operator) -> None:
    with pytest.raises(LetterNotFound, match=r"'no\.such'"):
        await operator.dead_letters.find(LetterFilter(queue="no.such"))
    with pytest.raises(LetterNotFound, match="abcdef"):
        await operator.dead_letters.letter(QUEUE, "abcdef")
    with pytest.raises(LetterNotFound, match=r"'no\.such'"):
        await last(operator.dead_letters.replay(LetterFilter(queue="no.such"), ReplayOptions(), actor="me"))


async def test_letters_are_sent_on(operator: Operator, operated: FakeHost) -> None:
    for number in range(3):
        await bury(operated.bus, f"letter-{number}", body=GOOD)
    end = await last(operator.dead_letters.replay(LetterFilter(ids=("letter-1",)), ReplayOptions(), actor="me"))
    assert (end.action, end.worked, end.refusals) == ("replay", 1, 0)
    end = await last(operator.dead_letters.replay(LetterFilter(queue=QUEUE), ReplayOptions(), actor="me"))
    assert end.worked == 2
    async with asyncio.timeout(60):
        while len(operated.agent.seen) < 3:
            await asyncio.sleep(0)
    assert sorted(seen.message_id for seen in operated.agent.seen) == ["letter-0", "letter-1", "letter-2"]
    assert await operated.lying() == []


async def test_a_dry_run_changes_nothing(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    desk = operator.dead_letters
    end = await last(desk.replay(LetterFilter(), ReplayOptions(dry_run=True), actor="me"))
    assert (end.worked, end.dry_run) == (1, True)
    end = await last(desk.discard(LetterFilter(), reason="a test", actor="me", dry_run=True))
    assert (end.worked, end.dry_run) == (1, True)
    assert await operated.lying() == ["letter-1"]
    assert operated.agent.seen == []


@pytest.mark.parametrize("body", [b'{"input": "\\u0001\\u0001"}', '{"input": "Grüße ☃"}'.encode()])
async def test_a_mended_letter_is_sent_on_and_kept(operator: Operator, operated: FakeHost, body: bytes) -> None:
    await bury(operated.bus, "letter-1", headers={"k": "v"})
    edit = Edit(body=body.decode(), headers={"k": "w"})
    message = await operator.dead_letters.edit(QUEUE, "letter-1", edit, actor="me")
    assert (message.message_id, message.topic) == ("letter-1", "agent.task.assistant")
    async with asyncio.timeout(60):
        await operated.agent.asked.wait()
    seen = operated.agent.seen[0]
    assert (seen.body, seen.headers["k"]) == (body, "w")
    assert await operated.lying() == []
    assert (await operator.dead_letters.letter("discarded", "letter-1")).body == "not json"


async def test_an_invalid_edit_says_where_and_changes_nothing(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    with pytest.raises(InvalidRequest, match="input"):
        await operator.dead_letters.edit(QUEUE, "letter-1", Edit(body='{"inptu": "x"}'), actor="me")
    assert await operated.lying() == ["letter-1"]
    assert operated.agent.seen == []


async def test_discarded_letters_come_back(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    desk = operator.dead_letters
    end = await last(desk.discard(LetterFilter(queue=QUEUE), reason="a test", actor="me"))
    assert (end.action, end.worked) == ("discard", 1)
    assert await operated.lying() == []
    view = await desk.letter("discarded", "letter-1")
    assert (view.discarded_reason, view.reason) == ("a test", "no disk")
    end = await last(desk.restore(LetterFilter(queue=QUEUE, ids=("letter-1",)), actor="me"))
    assert (end.action, end.worked) == ("restore", 1)
    assert await operated.lying() == ["letter-1"]


async def test_a_purge_erases_no_more_than_was_counted(operator: Operator, operated: FakeHost) -> None:
    for number in range(3):
        await bury(operated.bus, f"letter-{number}")
    desk = operator.dead_letters
    with pytest.raises(InvalidRequest):
        await last(desk.purge(QUEUE, expect=2, actor="me", reason="a test"))
    assert len(await operated.lying()) == 3
    assert (await last(desk.purge(QUEUE, expect=3, actor="me", reason="a test"))).worked == 3
    assert await operated.lying() == []


async def test_exported_letters_can_be_imported(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1", body=b"\xff", headers={"k": 1})
    await bury(operated.bus, "letter-2", queue="unrouted", topic="a.b")
    desk = operator.dead_letters
    exported = [letter async for letter in desk.export(LetterFilter())]
    assert sorted(letter.id for letter in exported) == ["letter-1", "letter-2"]
    await last(desk.purge(QUEUE, expect=1, actor="me", reason="a test"))
    await last(desk.purge("unrouted", expect=1, actor="me", reason="a test"))
    end = await last(desk.load(letters_of(*exported), actor="me"))
    assert (end.action, end.worked) == ("import", 2)
    assert (await operated.lying(), await operated.lying("unrouted")) == (["letter-1"], ["letter-2"])
    view = await desk.letter(QUEUE, "letter-1")
    assert (view.body_bytes, view.headers, view.reason, view.handler) == (b"\xff", {"k": 1}, "no disk", "agent")


async def test_a_scan_finds_what_the_index_did_not_know(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    end = await last(operator.dead_letters.scan())
    assert (end.action, end.seen) == ("scan", 1)


async def test_the_audit_names_who_did_what(operator: Operator, operated: FakeHost) -> None:
    await bury(operated.bus, "letter-1")
    await last(operator.dead_letters.discard(LetterFilter(queue=QUEUE), reason="a test", actor="ann"))
    [entry] = await operator.dead_letters.audit()
    assert (entry.action, entry.actor, entry.queue, entry.count, entry.reason) == ("discard", "ann", QUEUE, 1, "a test")


async def test_a_follower_that_leaves_stops_the_action_after_the_batch_in_hand(
    operator: Operator, operated: FakeHost
) -> None:
    for number in range(1000):
        await bury(operated.bus, f"letter-{number}", body=GOOD)
    steps: Any = operator.dead_letters.discard(LetterFilter(queue=QUEUE), reason="a test", actor="me")
    async with aclosing(steps):
        async for step in steps:
            if step.worked:
                break
    async with asyncio.timeout(60):
        while operated.actions.running:
            await asyncio.sleep(0)
    left = await operated.lying()
    assert 0 < len(left) < 1000
    end = await last(operator.dead_letters.discard(LetterFilter(queue=QUEUE), reason="a test", actor="me"))
    assert (end.worked, await operated.lying()) == (len(left), [])


async def test_letters_are_imported_in_as_many_requests_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rockbot.gateway.desk.IMPORT_BYTES", 2000)
    async with served_host() as host:
        operator = SocketOperator(host.socket)
        for number in range(20):
            await bury(host.bus, f"letter-{number}", body=b"x" * 300)
        exported = [letter async for letter in operator.dead_letters.export(LetterFilter())]
        end = await last(operator.dead_letters.load(letters_of(*exported), actor="me", queue="unrouted"))
        assert (end.worked, end.seen, len(await host.lying("unrouted"))) == (20, 20, 20)
        assert len(await operator.dead_letters.audit()) > 1
        await operator.close()


async def test_a_host_that_goes_away_in_the_middle_is_told_and_nothing_is_lost() -> None:
    async with fake_host() as host:
        for number in range(50):
            await bury(host.bus, f"letter-{number}", body=GOOD)
        operator = SocketOperator(host.socket)
        steps: Any = operator.dead_letters.replay(LetterFilter(), ReplayOptions(rate=5), actor="me")
        async with asyncio.timeout(60):
            async with serve(create_app(host.operator, actions=host.actions), host.socket):
                await anext(steps)
            with pytest.raises(HostUnreachable, match="went away before it answered"):
                async for _ in steps:
                    pass
            while host.actions.running:
                await asyncio.sleep(0.01)
        left = await host.lying()
        seen = {message.message_id for message in host.agent.seen}
        assert 0 < len(left) < 50
        assert seen | set(left) == {f"letter-{number}" for number in range(50)}
        await operator.close()


async def test_a_stream_that_is_cut_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served_host() as host:
        await bury(host.bus, "letter-1")
        monkeypatch.setattr("rockbot.gateway.letters_routes.EndLine", AliveLine)
        operator = SocketOperator(host.socket)
        with pytest.raises(HostUnreachable):
            _ = [letter async for letter in operator.dead_letters.export(LetterFilter())]
        await operator.close()
