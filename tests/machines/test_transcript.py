"""Reading what was sealed: whole, checked, from a cache that stays small; what is missing or changed is told."""

from __future__ import annotations

import pytest

from rockbot.events import LlmRequest, Message, SegmentRef, TextPart
from rockbot.machines.segments import seal_first
from rockbot.machines.transcript import TranscriptDamaged, Transcripts, copied_rows, read_segments
from rockbot.state.keys import segment_key
from rockbot.state.ports import StateStore

LONG = 60_000


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


async def sealed(store: StateStore, count: int, conversation: str = "c1") -> tuple[SegmentRef, list[Message]]:
    """A conversation of so many segments."""
    head: SegmentRef | None = None
    messages = [user(f"{at}" + "x" * LONG) for at in range(count)]
    for message in messages:
        done = seal_first([message], 1, head)
        assert done is not None
        for number, data in done.rows:
            await store.put(segment_key("acme", conversation, number), data)
        head = done.head
    assert head is not None
    return head, messages


def asking(head: SegmentRef) -> LlmRequest:
    return LlmRequest(model="scripted/demo", messages=(user("now"),), earlier=head)


async def test_a_request_becomes_whole(store: StateStore) -> None:
    head, messages = await sealed(store, 3)
    whole = await Transcripts(store).whole(asking(head), tenant="acme", conversation_id="c1")
    assert (list(whole.messages), whole.earlier) == ([*messages, user("now")], None)
    since = head.model_copy(update={"since": 2})
    whole = await Transcripts(store).whole(asking(since), tenant="acme", conversation_id="c1")
    assert list(whole.messages) == [messages[2], user("now")], "a summary stands for the first two"


async def test_segments_are_read_once_and_only_as_many_are_held_as_there_is_room_for(store: StateStore) -> None:
    head, messages = await sealed(store, 4)
    roomy, narrow = Transcripts(store), Transcripts(store, cache_bytes=2 * LONG + 1000)
    for transcripts in (roomy, narrow):
        await transcripts.whole(asking(head), tenant="acme", conversation_id="c1")
    for number in range(1, 5):
        await store.delete(segment_key("acme", "c1", number))
    whole = await roomy.whole(asking(head), tenant="acme", conversation_id="c1")
    assert list(whole.messages[:-1]) == messages
    with pytest.raises(TranscriptDamaged):
        await narrow.whole(asking(head), tenant="acme", conversation_id="c1")
    with pytest.raises(TranscriptDamaged):
        await roomy.whole(asking(head), tenant="other", conversation_id="c1")


async def test_a_segment_that_is_missing_or_another_is_told_by_its_number(store: StateStore) -> None:
    head, _ = await sealed(store, 3)
    _, _ = await sealed(store, 1, "c2")
    key = segment_key("acme", "c1", 2)
    entry = await store.get(key)
    assert entry is not None
    for value, told in (
        (entry.value.replace(b"xxx", b"xyx", 1), "segment 2 of conversation 'c1' has other bytes"),
        (b"{}", "cannot be read"),
        (None, "segment 2 of conversation 'c1' is not in the state store"),
    ):
        await (store.delete(key) if value is None else store.put(key, value))
        with pytest.raises(TranscriptDamaged, match=told):
            await Transcripts(store).whole(asking(head), tenant="acme", conversation_id="c1")
        with pytest.raises(TranscriptDamaged, match=told):
            _ = [part async for part in read_segments(store, tenant="acme", conversation_id="c1", head=head)]
    await store.put(key, entry.value)
    whole = await Transcripts(store).whole(asking(head), tenant="acme", conversation_id="c1")
    assert len(whole.messages) == 4, "it is mended"
    with pytest.raises(TranscriptDamaged, match="names no conversation"):
        await Transcripts(store).whole(asking(head), tenant="acme", conversation_id=None)


async def test_a_whole_story_is_read_oldest_first_up_to_its_head_over_many_pages(store: StateStore) -> None:
    head: SegmentRef | None = None
    heads: list[SegmentRef] = []
    for at in range(120):
        done = seal_first([user(str(at))], 1, head)
        assert done is not None
        await store.put(segment_key("acme", "c1", done.rows[0][0]), done.rows[0][1])
        heads.append(head := done.head)
    for count in (1, 50, 51, 120):
        found = [
            message.text
            async for segment in read_segments(store, tenant="acme", conversation_id="c1", head=heads[count - 1])
            for message in segment.messages
        ]
        assert found == [str(at) for at in range(count)]
    assert [part async for part in read_segments(store, tenant="acme", conversation_id="c1", head=None)] == []


async def test_a_copy_of_a_conversation_has_its_segments_under_its_own_name(store: StateStore) -> None:
    head, messages = await sealed(store, 3)
    rows = await copied_rows(store, tenant="acme", source="c1", target="fork", head=head)
    for row in rows:
        await store.put(row.key, row.value or b"")
    whole = await Transcripts(store).whole(asking(head), tenant="acme", conversation_id="fork")
    assert list(whole.messages[:-1]) == messages
