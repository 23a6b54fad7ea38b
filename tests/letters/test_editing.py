"""Mending one letter: what may be changed, what comes of it, and that nothing is lost by it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from letters.scene import Scene, done

from rockbot.letters.models import Edit, LetterFilter
from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import LetterNotFound, Unroutable
from rockbot_messaging.measures import Names

_TASK = "rockbot.agent.task"


async def _edit(scene: Scene, edit: Edit, id: str = "letter-1", queue: str = "orders") -> Any:
    return await scene.desk.edit(queue, id, edit, actor="me")


async def test_a_mended_letter_is_sent_on_and_its_original_is_kept(scene: Scene) -> None:
    await scene.bury("letter-1", signature="v1:k:0000", correlation_id="c", headers={"colour": "red"})
    await scene.bury("letter-2")
    await scene.rows()
    sent = await _edit(scene, Edit(body='{"items": [1]}'))
    assert (sent.message_id, sent.topic, sent.correlation_id) == ("letter-1", "order.created", "c")
    recorder = await scene.consume()
    (message,) = await recorder.wait_for(1)
    assert (message.body, message.message_id, message.attempt) == (b'{"items": [1]}', "letter-1", 1)
    assert (dict(message.headers), message.signature) == ({"colour": "red"}, None)
    original = await scene.desk.letter("discarded", "letter-1")
    assert (original.body, original.discarded_reason) == ('{"items": []}', "edited and sent on by me")
    assert [row.id for row in await scene.rows()] == await scene.ids_in() == ["letter-2"]
    (entry,) = await scene.desk.audit()
    assert (entry.action, entry.actor, entry.count, entry.letters) == ("edit", "me", 1, ("letter-1",))
    assert "body" in entry.detail
    assert "items" not in entry.model_dump_json()
    assert scene.measures.value(Names.LETTERS_WORKED, queue="orders", action="edit") == 1
    assert (await done(scene.desk.restore(LetterFilter(ids=("letter-1",)), actor="me"))).worked == 1
    assert await scene.ids_in() == ["letter-2", "letter-1"]


async def test_free_headers_and_binary_bodies_can_be_set(scene: Scene) -> None:
    await scene.bury("letter-1", headers={"colour": "red", "size": 3})
    body = base64.b64encode(b"\xff\x00").decode()
    await _edit(scene, Edit(headers={"colour": "blue"}, body=body, body_encoding="base64"))
    recorder = await scene.consume()
    (message,) = await recorder.wait_for(1)
    assert (dict(message.headers), message.body) == ({"colour": "blue"}, b"\xff\x00")


@pytest.mark.parametrize("name", ["x-death", "X-Delay", "rockbot-tenant", "traceparent", "CC", ""])
async def test_reserved_headers_are_refused(scene: Scene, name: str) -> None:
    await scene.bury("letter-1")
    with pytest.raises(InvalidRequest, match="reserved"):
        await _edit(scene, Edit(headers={name: "1"}))
    assert await scene.ids_in() == ["letter-1"]


@pytest.mark.parametrize(
    "change",
    [
        {"type": "shop.bill"},
        {"content_type": "text/plain"},
        {"reply_to": "their.queue"},
        {"correlation_id": "other"},
        {"deadline_ms": 4_000_000_000_000},
    ],
)
async def test_what_others_decide_by_needs_care(scene: Scene, change: dict[str, Any]) -> None:
    await scene.bury("letter-1", reply_to="old.queue", correlation_id="old")
    with pytest.raises(InvalidRequest, match=f"{next(iter(change))}.*careful"):
        await _edit(scene, Edit(**change))
    await _edit(scene, Edit(**change, careful=True))
    recorder = await scene.consume()
    (message,) = await recorder.wait_for(1)
    assert {name: getattr(message, name) for name in change} == change


async def test_addresses_can_be_taken_away(scene: Scene) -> None:
    await scene.bury("letter-1", reply_to="old.queue", correlation_id="old")
    await _edit(scene, Edit(reply_to="", correlation_id="", careful=True))
    recorder = await scene.consume()
    (message,) = await recorder.wait_for(1)
    assert (message.reply_to, message.correlation_id) == (None, None)


async def test_what_says_who_a_message_is_stays(scene: Scene) -> None:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "causation_id": "cause",
        "conversation_id": "talk",
        "root_task_id": "task",
        "return_address": ReturnAddress("agent.step.x", "token"),
    }
    await scene.bury("letter-1", **fields)
    await _edit(scene, Edit(body="{}", type="shop.other", careful=True))
    recorder = await scene.consume()
    (message,) = await recorder.wait_for(1)
    assert {name: getattr(message, name) for name in fields} == fields
    assert not set(Edit.model_fields) & set((await _view(scene)).locked)


async def _view(scene: Scene) -> Any:
    await scene.bury("letter-9")
    return await scene.desk.letter("orders", "letter-9")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"input": ""}', "input: Value should have at least 1 item after validation"),
        ('{"timeout_seconds": -1, "input": "x"}', "timeout_seconds: Input should be greater than 0"),
        ('{"input": [{"kind": "text"}]}', "input"),
        ("{broken", "Invalid JSON"),
        ("", "empty"),
    ],
)
async def test_a_body_that_is_invalid_for_its_type_is_refused_and_the_text_says_where(
    scene: Scene, body: str, told: str
) -> None:
    await scene.bury("letter-1", type=_TASK, topic="agent.task.x", body=b'{"input": 5}')
    with pytest.raises(InvalidRequest) as refused:
        await _edit(scene, Edit(body=body))
    assert told in str(refused.value)
    assert await scene.ids_in() == ["letter-1"]
    await _edit(scene, Edit(body=body, unchecked=True))


async def test_the_type_may_be_implied_by_the_topic_or_be_the_edited_one(scene: Scene) -> None:
    await scene.bury("letter-1", type="", topic="agent.task.x", body=b"{}")
    with pytest.raises(InvalidRequest, match=r"no rockbot\.agent\.task"):
        await _edit(scene, Edit(body='{"output": 1}'))
    await scene.bury("letter-2", body=b"{}")
    with pytest.raises(InvalidRequest, match=r"no rockbot\.agent\.task"):
        await _edit(scene, Edit(type=_TASK, careful=True), id="letter-2")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (Edit(), "changes nothing"),
        (Edit(careful=True, unchecked=True), "changes nothing"),
        (Edit(body="no base64!", body_encoding="base64"), "not base64"),
        (Edit(reply_to="rockbot.agent.assistant", careful=True), "names a queue of this host"),
        (Edit(deadline_ms=5, careful=True), "has passed"),
    ],
)
async def test_an_edit_that_makes_no_sense_is_refused(scene: Scene, edit: Edit, told: str) -> None:
    await scene.bury("letter-1")
    with pytest.raises(InvalidRequest, match=told):
        await _edit(scene, edit)
    assert await scene.ids_in() == ["letter-1"]
    assert await scene.ids_in("discarded") == []


async def test_an_unrouted_letter_that_still_has_no_receiver_stays(scene: Scene) -> None:
    await scene.bury("letter-1", queue="unrouted", topic="parcel.sent", error="")
    with pytest.raises(Unroutable, match="nobody receives"):
        await _edit(scene, Edit(body="{}"), queue="unrouted")
    assert await scene.ids_in("unrouted") == ["letter-1"]
    assert [row.id for row in await scene.rows(queue="unrouted")] == ["letter-1"]
    assert await scene.desk.audit() == []


async def test_of_several_copies_one_is_edited(scene: Scene) -> None:
    for _ in range(2):
        await scene.bury("letter-1")
    await scene.bury("letter-10")
    await _edit(scene, Edit(body="{}"))
    assert await scene.ids_in() == ["letter-1", "letter-10"]


async def test_a_letter_that_is_not_there_is_told(scene: Scene) -> None:
    with pytest.raises(LetterNotFound):
        await _edit(scene, Edit(body="{}"))
    await scene.bury("letter-1")
    await done(scene.desk.discard(LetterFilter(), reason="x", actor="me"))
    with pytest.raises(InvalidRequest, match="restore"):
        await _edit(scene, Edit(body="{}"), queue="discarded")
