"""Sealing a transcript: whatever it looks like, nothing is lost, nothing is parted, and the tail stays small."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from machines.stage import CONVERSATION, Play

from rockbot.events import ImagePart, Message, SegmentRef, TextPart, ToolCallPart, ToolResultPart
from rockbot.events.content import Weight
from rockbot.machines.segments import SEGMENT_BYTES, TAIL_BYTES, TAIL_MESSAGES, Segment, seal, size_of
from rockbot.machines.transcript_rules import transcript_problems
from rockbot.machines.turn_state import Conversation
from rockbot.state.keys import segment_key


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


def exchange(number: int, size: int, tools: int) -> list[Message]:
    """A user's message and the reply to it, with a round of tool calls in between when there are any."""
    asked = tuple(ToolCallPart(call_id=f"t{number}.{at}", tool="add", arguments={}) for at in range(tools))
    done = tuple(ToolResultPart(call_id=call.call_id, parts=(TextPart(text="r" * size),)) for call in asked)
    rounds = [Message(role="assistant", parts=asked), Message(role="user", parts=done)] if tools else []
    return [user(f"{number}" + "q" * size), *rounds, Message(role="assistant", parts=(TextPart(text="a" * size),))]


SIZES = st.sampled_from([0, 10, 500, 5_000, 20_000, 70_000])
STORIES = st.lists(st.tuples(SIZES, st.integers(0, 3)), min_size=1, max_size=30)


@settings(max_examples=100)
@given(STORIES, st.sampled_from([None, 4096, 40_000]))
def test_sealing_loses_nothing_parts_nothing_and_leaves_a_small_tail(
    story: list[tuple[int, int]], limit: int | None
) -> None:
    whole: list[Message] = []
    tail: list[Message] = []
    head: SegmentRef | None = None
    stored: dict[int, bytes] = {}
    for number, (size, tools) in enumerate(story):
        said = exchange(number, size, tools)
        whole.extend(said)
        tail.extend(said)
        if sealed := seal(tail, head, limit=limit):
            assert not stored.keys() & {at for at, _ in sealed.rows}
            stored.update(sealed.rows)
            tail, head = tail[sealed.messages :], sealed.head
        bound = TAIL_BYTES if limit is None else min(TAIL_BYTES, limit // 4)
        assert len(tail) <= TAIL_MESSAGES
        assert sum(map(size_of, tail)) <= bound
    found = list(tail)
    shown = head
    while head is not None:
        data = stored.pop(head.number)
        assert head.sha256 == hashlib.sha256(data).hexdigest()
        segment = Segment.model_validate_json(data)
        assert (head.messages, head.size) == (len(segment.messages), len(data))
        assert len(data) <= 2 * SEGMENT_BYTES or len(segment.messages) <= 2, "only a long message makes a long segment"
        assert not transcript_problems([user("-"), *segment.messages]), "a call was parted from its result"
        found[:0] = segment.messages
        head = segment.previous
    assert not stored
    assert found == whole
    if shown is not None:
        assert shown.total_messages + len(tail) == len(whole)


def test_a_conversation_of_an_older_journal_is_sealed_when_it_goes_on() -> None:
    old = Conversation(messages=tuple(message for at in range(200) for message in exchange(at, 300, 1)))
    data = old.model_dump_json(exclude={"sealed"}, exclude_none=True).encode()
    play = Play()
    play.state = play.machine.load_state(data)
    play.ask("and now?")
    (request,) = play.requests
    assert len(request.to_body()) < TAIL_BYTES + 2000
    assert play.shown(request) == [*old.messages, user("and now?")]
    assert all(len(data) <= 2 * SEGMENT_BYTES for key, data in play.rows.items() if "/segment/" in key)
    assert segment_key("default", CONVERSATION, 1) in play.rows


def test_a_message_knows_its_weight_and_a_copy_its_own() -> None:
    image = Message(role="user", parts=(TextPart(text="grüße"), ImagePart(media_type="image/png", data="A" * 400)))
    text = image.model_dump_json(exclude_none=True)
    assert image.weight == Weight(len(text.encode()), len(text) - 400 - 2, 2, 1)
    copied = image.model_copy(update={"parts": (TextPart(text="no"),)})
    assert copied.weight.size == size_of(Message(role="user", parts=(TextPart(text="no"),)))
    assert copied != image
    assert copied == Message(role="user", parts=(TextPart(text="no"),))
    assert image.model_dump_json(exclude_none=True) == text
