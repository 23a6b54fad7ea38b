"""The text of a reply, whatever becomes of its deltas on the way."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rockbot.events import LlmDelta
from rockbot.reply_text import ReplyText
from rockbot.state.replies import ReplySnapshot

PIECES = st.lists(st.text(max_size=5), min_size=1, max_size=12)


def deltas(pieces: list[str], attempt: int) -> list[LlmDelta]:
    made, offset = [], 0
    for sequence, text in enumerate(pieces):
        made.append(
            LlmDelta(
                conversation_id="c",
                call_id="k",
                attempt=attempt,
                sequence=sequence,
                offset=offset,
                text=text,
                reset=sequence == 0,
                done=sequence == len(pieces) - 1,
            )
        )
        offset += len(text)
    return made


def snapshot(pieces: list[str], attempt: int, upto: int) -> ReplySnapshot:
    text = "".join(pieces[:upto])
    return ReplySnapshot(call_id="k", attempt=attempt, sequence=upto, text=text, done=upto == len(pieces))


@given(attempts=st.lists(PIECES, min_size=1, max_size=3), data=st.data())
def test_deltas_of_any_order_and_number_and_the_last_snapshot_make_the_reply(
    attempts: list[list[str]], data: st.DataObject
) -> None:
    sent = [delta for at, pieces in enumerate(attempts) for delta in deltas(pieces, 10 + at)]
    states = [snapshot(pieces, 10 + at, upto) for at, pieces in enumerate(attempts) for upto in range(len(pieces) + 1)]
    reply = ReplyText("k")
    for event in data.draw(st.lists(st.sampled_from([*sent, *states]), max_size=30)):
        before = reply.text, reply.done, reply.attempt
        changed = reply.take(event) if isinstance(event, LlmDelta) else reply.restore(event)
        assert changed or before == (reply.text, reply.done, reply.attempt) or not before[0] + reply.text
        pieces = attempts[reply.attempt - 10] if reply.attempt else []
        assert "".join(pieces).startswith(reply.text)
    reply.restore(snapshot(attempts[-1], 9 + len(attempts), len(attempts[-1])))
    assert (reply.text, reply.done, reply.missing) == ("".join(attempts[-1]), True, False)


@given(attempts=st.lists(PIECES, min_size=1, max_size=3))
def test_deltas_alone_make_the_reply_when_none_is_lost(attempts: list[list[str]]) -> None:
    reply = ReplyText("k")
    for at, pieces in enumerate(attempts):
        for delta in deltas(pieces, 10 + at):
            reply.take(delta)
    assert (reply.text, reply.done) == ("".join(attempts[-1]), True)


def test_a_lost_delta_is_missing_until_a_snapshot_brings_it() -> None:
    pieces = ["a", "b", "c", "d"]
    sent = deltas(pieces, 1)
    reply = ReplyText("k")
    assert reply.take(sent[0])
    assert not reply.take(sent[2])
    assert (reply.text, reply.missing) == ("a", True)
    assert not reply.restore(snapshot(pieces, 1, 1))
    assert reply.restore(snapshot(pieces, 1, 2))
    assert (reply.text, reply.missing) == ("abc", False)


def test_what_comes_late_of_an_earlier_attempt_changes_nothing() -> None:
    reply = ReplyText("k")
    for delta in deltas(["new", " text"], 2):
        reply.take(delta)
    before: dict[str, Any] = vars(reply).copy()
    assert not any(reply.take(delta) for delta in deltas(["old"], 1))
    assert not reply.restore(snapshot(["old"], 1, 1))
    assert vars(reply) == before
