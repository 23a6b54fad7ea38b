"""What a turn does when something would be too much: for the bus, for the model, for the conversation."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines.stage import CONVERSATION, TIMEOUT, Play, agent, calls, result, says

from rockbot.errors import NewerRelease
from rockbot.events import AgentResponse, Event, ToolCallPart, ToolInvoke
from rockbot.events.models import StopReason
from rockbot.machines.turn import TurnMachine, return_token, token_parts
from rockbot.machines.turn_state import AwaitingTools

LIMIT = 4096


def only(play: Play) -> AgentResponse:
    (response,) = play.responses
    return response


# -- too much for the bus


def test_a_request_too_large_for_the_bus_fails_the_task_and_spoils_nothing() -> None:
    play = Play(agent(instructions="x" * LIMIT), limit=LIMIT)
    play.ask()
    response = only(play)
    assert (response.status, response.model_calls) == ("failed", 0)
    assert response.error
    assert response.error.code == "too_large"
    assert "the request to the model" in response.error.message
    assert str(LIMIT) in response.error.message
    assert not play.open
    assert play.state.messages == ()
    play.check()
    play.limit = None
    play.ask("short")
    play.answer(says("done"))
    assert play.responses[1].status == "completed"
    play.check()


def test_what_is_asked_and_what_tools_say_may_be_larger_than_a_message() -> None:
    play = Play(limit=LIMIT)
    play.ask("q" * LIMIT)
    play.answer(calls("add"))
    play.answer(result("x" * LIMIT), to="add")
    play.answer(says("done"))
    assert only(play).status == "completed"
    for request in play.requests:
        assert len(request.to_body()) <= LIMIT
        assert request.earlier
    assert [len(play.shown(request)) for request in play.requests] == [1, 3]
    play.check()


def test_a_request_too_large_after_a_tool_has_answered_fails_the_task() -> None:
    play = Play(agent("add", instructions="x" * 3000))
    play.ask("hi", correlation_id="c")
    play.answer(calls("add"))
    play.limit = 2000  # lowered by whoever started the host anew
    play.answer(result("42"), to="add")
    response = only(play)
    assert response.error
    assert (response.status, response.error.code, response.model_calls, response.tool_calls) == (
        "failed",
        "too_large",
        1,
        1,
    )
    assert not play.open
    play.check()


def test_tool_arguments_too_large_for_the_bus_fail_the_task_and_no_tool_is_called() -> None:
    play = Play(limit=LIMIT)
    play.ask()
    reply = calls("look", "add", text="let me see")
    large = ToolCallPart(call_id="t1", tool="add", arguments={"text": "x" * LIMIT})
    parts = (*reply.message.parts[:-1], large)
    play.answer(reply.model_copy(update={"message": reply.message.model_copy(update={"parts": parts})}))
    response = only(play)
    assert response.error
    assert (response.error.code, response.output, response.tool_calls) == ("too_large", "let me see", 0)
    assert "the call of the tool add" in response.error.message
    assert not [command for command in play.sent.values() if isinstance(command.event, ToolInvoke)]
    play.check()


def test_a_waiting_task_that_cannot_be_started_does_not_hold_up_the_one_behind_it() -> None:
    play = Play(limit=LIMIT)
    agents = [agent("add"), agent(instructions="x" * LIMIT)]
    known = {snapshot.digest: snapshot for snapshot in agents}
    small, large = (TurnMachine(CONVERSATION, one, default_timeout=TIMEOUT, known=known) for one in agents)
    for task, machine in (("one", small), ("two", large), ("three", large), ("four", small)):
        play.machine = machine
        play.ask(id=task)
    play.answer(says("done"))
    assert [(response.task_id, response.status) for response in play.responses] == [
        ("one", "completed"),
        ("two", "failed"),
        ("three", "failed"),
    ]
    play.answer(says("done too"))
    assert play.responses[-1].task_id == "four"
    assert not play.timers
    play.check()


def test_a_call_that_cannot_be_repeated_fails_the_task() -> None:
    play = Play(agent(instructions="x" * LIMIT))
    play.ask()
    call = play.call()
    play.stall(call)
    play.limit = LIMIT  # lowered by whoever started the host anew
    play.expire(call)
    assert only(play).error.code == "too_large"  # type: ignore[union-attr]
    play.check()


@pytest.mark.parametrize("character", ["x", "\u20ac", "\n", "\x01", '"', "\U0001f600"])
@pytest.mark.parametrize("length", [1500, 2500, 10_000])
def test_an_answer_too_large_for_the_bus_is_cut_and_says_by_how_much(character: str, length: int) -> None:
    play = Play(limit=LIMIT)
    play.ask()
    text = character * length
    play.answer(says(text))
    response = only(play)
    assert response.status == "completed"
    assert len(response.to_body()) <= LIMIT
    kept, omitted = re.fullmatch(r"(.*?)(?:\[truncated, (\d+) chars omitted\])?", response.output, re.DOTALL).groups()  # type: ignore[union-attr]
    assert len(kept) + int(omitted or 0) == length
    assert text.startswith(kept)
    assert response.parts[0].text == response.output  # type: ignore[union-attr]
    cost = 2 * len(json.dumps(character, ensure_ascii=False).encode())
    assert not omitted or len(response.to_body()) > LIMIT - cost - 200, "more was cut than needed"
    assert play.state.messages[-1].text == text, "the transcript keeps the whole text"
    play.check()


@given(st.text(max_size=60), st.integers(1, 100), st.integers(1200, LIMIT))
def test_any_answer_leaves(text: str, times: int, limit: int) -> None:
    play = Play()
    play.ask()
    play.limit = limit
    play.answer(says(text * times))
    assert len(only(play).to_body()) <= limit


def test_a_long_reason_never_keeps_an_answer_from_leaving() -> None:
    play = Play(limit=LIMIT)
    play.ask()
    play.stall(play.call(), reason="y" * 3 * LIMIT)
    play.fire()
    response = only(play)
    assert response.error
    assert response.error.code == "stalled"
    assert response.error.message.endswith("chars omitted]")
    play.check()


# -- too much for the model


def test_an_answer_that_ran_into_the_output_limit_says_so() -> None:
    play = Play()
    play.ask()
    play.answer(says("and then", stop_reason="max_tokens"))
    assert (only(play).status, only(play).output, only(play).stop_reason) == ("completed", "and then", "max_tokens")


def test_tool_calls_of_a_reply_that_was_cut_are_not_made() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", text="first I", stop_reason="max_tokens"))
    response = only(play)
    assert response.error
    assert (response.status, response.error.code, response.output) == ("failed", "max_tokens", "first I")
    assert (response.stop_reason, response.tool_calls) == ("max_tokens", 0)
    assert not play.open
    play.check()


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "refusal", "other"])
def test_an_answer_tells_how_the_model_ended(reason: StopReason) -> None:
    play = Play()
    play.ask()
    play.answer(says("x", stop_reason=reason))
    assert only(play).stop_reason == reason


# -- too much for the conversation


def test_a_task_beyond_the_waiting_list_is_answered_as_busy_at_once() -> None:
    play = Play(agent("add", max_waiting=2))
    for number in range(5):
        play.ask(id=f"t{number}")
    busy = play.responses
    assert [(response.task_id, response.status, response.model_calls) for response in busy] == [
        ("t3", "failed", 0),
        ("t4", "failed", 0),
    ]
    assert {response.error.code for response in busy if response.error} == {"busy"}
    assert len(play.state.waiting) == 2
    play.check()
    play.answer(says("done"))
    play.ask(id="t5")
    assert len(play.state.waiting) == 2, "there is room again"
    play.check()


def test_an_idle_conversation_is_never_busy() -> None:
    play = Play(agent(max_waiting=0))
    play.ask()
    assert not play.responses
    play.ask()
    assert only(play).error.code == "busy"  # type: ignore[union-attr]
    play.check()


# -- tenants, newer releases, broken texts


def test_equal_messages_of_two_tenants_lead_to_different_calls() -> None:
    plays = [Play(tenant=tenant) for tenant in ("default", "acme", "umbrella")]
    for play in plays:
        play.ask(id="same")
        play.take(calls("add", "look"), call=play.call(), id="reply")
        assert isinstance(play.state.turn and play.state.turn.phase, AwaitingTools)
        assert sorted(play.state.turn.open_calls) == sorted(play.open)  # type: ignore[union-attr]
    assert len({call for play in plays for call in play.sent}) == sum(len(play.sent) for play in plays)


@pytest.mark.parametrize(
    "data", [b'{"kind": "turn_forked"}', b'{"kind": "turn_ended", "task_id": "t", "status": "paused"}', b"\x00"]
)
def test_a_record_that_cannot_be_read_was_written_by_a_newer_release(data: bytes) -> None:
    machine = TurnMachine(CONVERSATION, agent(), default_timeout=TIMEOUT)
    with pytest.raises(NewerRelease, match="a record of conversation 'c1'"):
        machine.load_record(data)


def test_a_snapshot_that_cannot_be_read_was_written_by_a_newer_release() -> None:
    play = Play()
    play.ask()
    state = json.loads(play.machine.dump_state(play.state))
    state["turn"]["phase"]["kind"] = "awaiting_approval"
    with pytest.raises(NewerRelease, match="a snapshot of conversation 'c1'"):
        play.machine.load_state(json.dumps(state).encode())


def test_an_agent_of_an_older_journal_has_a_waiting_list() -> None:
    stored = json.loads(agent().model_dump_json())
    del stored["max_waiting"]
    assert type(agent()).model_validate(stored).max_waiting == 100


@pytest.mark.parametrize("parts", [("a", "\ud800"), ("\udfff", "b")])
def test_a_return_token_that_no_key_can_be_made_of_is_refused(parts: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        token_parts(return_token(*parts))


def test_every_end_of_a_task_is_an_event_of_the_wire() -> None:
    play = Play(agent(max_waiting=0), limit=LIMIT)
    play.ask()
    play.ask()
    play.answer(says("x" * LIMIT, stop_reason="max_tokens"))
    for response in play.responses:
        event: Event = AgentResponse.model_validate_json(response.to_body())
        assert event == response
