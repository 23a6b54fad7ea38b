"""The rules of a transcript: what is right has no problem, and every way to spoil it has one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot.events import Message, TextPart, ToolCallPart, ToolResultPart
from rockbot.machines.transcript_rules import begun, may_cut, transcript_problems


def said(role: str, *parts: object) -> Message:
    return Message(role=role, parts=parts)  # type: ignore[arg-type]


def call(id: str) -> ToolCallPart:
    return ToolCallPart(call_id=id, tool="add", arguments={})


def done(id: str) -> ToolResultPart:
    return ToolResultPart(call_id=id, parts=(TextPart(text="r"),))


TEXT = TextPart(text="x")


def transcript(rounds: list[int]) -> list[Message]:
    """A user's message, then replies with so many tool calls each, the results of which stand in one message."""
    messages = [said("user", TEXT)]
    for at, tools in enumerate(rounds):
        ids = [f"t{at}.{number}" for number in range(tools)]
        messages.append(said("assistant", TEXT, *map(call, ids)))
        messages.append(said("user", *map(done, ids), TEXT))
    return messages


ROUNDS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@settings(max_examples=100)
@given(ROUNDS)
def test_a_correct_transcript_has_no_problem_and_neither_has_what_is_before_or_behind_a_cut(rounds: list[int]) -> None:
    messages = transcript(rounds)
    assert transcript_problems(messages, alternating=True) == []
    for at in range(len(messages) + 1):
        clean = not transcript_problems(messages[:at])
        assert clean == may_cut(messages, at)
        if may_cut(messages, at):
            assert transcript_problems([said("user", TEXT), *messages[at:]]) == []


@settings(max_examples=200)
@given(ROUNDS.filter(any), st.data())
def test_a_transcript_that_lost_doubled_or_swapped_anything_of_a_call_has_a_problem(
    rounds: list[int], data: st.DataObject
) -> None:
    messages = transcript(rounds)
    places = [
        (at, number)
        for at, message in enumerate(messages)
        for number, part in enumerate(message.parts)
        if isinstance(part, ToolCallPart | ToolResultPart)
    ]
    at, number = data.draw(st.sampled_from(places))
    parts = list(messages[at].parts)
    match data.draw(st.sampled_from(["lose", "double", "move", "drop message"])):
        case "lose":
            del parts[number]
        case "double":
            parts.insert(number, parts[number])
        case "move":
            other = (at + 1) % len(messages)
            messages[other] = said(messages[other].role, *messages[other].parts, parts.pop(number))
        case "drop message":
            del messages[at]
            assert transcript_problems(messages) != []
            return
    messages[at] = said(messages[at].role, *parts)
    assert transcript_problems(messages) != []


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([said("assistant", TEXT)], "message 0 is not a user's"),
        ([said("user")], "message 0 is empty"),
        ([said("user", TEXT), said("assistant", TEXT), said("assistant", TEXT)], "are both of the assistant"),
        ([said("user", call("a")), said("user", done("a"))], "is a user's and calls tools"),
        ([said("user", TEXT), said("assistant", call("a"))], "the calls of message 1 have no results"),
        ([said("user", TEXT), said("assistant", call("a")), said("user", TEXT, done("a"))], "behind something else"),
        (
            [said("user", TEXT), said("assistant", call("a"), call("b")), said("user", done("b"), done("a"))],
            "has results of",
        ),
        (
            [said("user", TEXT), said("assistant", call("a"), call("a")), said("user", done("a"), done("a"))],
            "uses the id of a call twice",
        ),
        ([said("user", TEXT), said("assistant", done("a"))], "is the assistant's and has results"),
    ],
)
def test_each_rule_is_told_by_a_sentence(messages: list[Message], problem: str) -> None:
    assert any(problem in told for told in transcript_problems(messages))


def test_neighbours_of_the_user_and_open_calls_are_a_matter_of_taste() -> None:
    twice = [said("user", TEXT), said("user", TEXT)]
    assert transcript_problems(twice) == []
    assert transcript_problems(twice, alternating=True) != []
    assert transcript_problems([said("user", TEXT), said("assistant", call("a"))], open_calls=True) == []


@settings(max_examples=50)
@given(ROUNDS, st.integers(0, 8))
def test_a_transcript_that_begins_in_the_middle_is_a_correct_one_with_its_note(rounds: list[int], at: int) -> None:
    messages = transcript(rounds)
    if may_cut(messages, at := min(at, len(messages))):
        assert transcript_problems(begun(messages[at:])) == []
        assert begun(messages) == tuple(messages)
