"""What follows from what in a turn."""

from __future__ import annotations

import pytest
from machines.stage import TIMEOUT, Play, agent, calls, result, says

from rockbot.events import AgentTask, JsonPart, LlmRequest, Message, TextPart, ToolInvoke, ToolResult, ToolResultPart
from rockbot.events.models import Usage
from rockbot.machines.turn import LONGEST_TASK, STALL_LIMIT, return_token, token_parts
from rockbot.machines.turn_state import AwaitingModel, AwaitingTools
from rockbot.policies import Policy


def test_a_plain_answer_ends_the_task() -> None:
    play = Play()
    task = play.ask("hi")
    play.answer(says("hello", usage=Usage(input_tokens=3, output_tokens=2)))
    (response,) = play.responses
    assert (response.task_id, response.status, response.output, response.model_calls) == (task, "completed", "hello", 1)
    assert response.usage.input_tokens == 3
    assert play.state.turn is None
    assert [message.role for message in play.state.messages] == ["user", "assistant"]
    play.check()


def test_a_model_call_carries_the_task_the_deadline_and_a_way_back() -> None:
    play = Play()
    play.ask("hi", id="t", correlation_id="corr")
    (command,) = play.open.values()
    assert isinstance(command.event, LlmRequest)
    assert command.event.messages == (Message(role="user", parts=(TextPart(text="hi"),)),)
    assert (command.event.model, command.event.system) == ("scripted/demo", "Be brief.")
    assert command.topic == "llm.request.scripted.interactive"
    assert command.deadline_ms == play.clock.now_ms() + TIMEOUT * 1000
    assert (command.correlation_id, command.root_task_id) == ("corr", "t")
    assert command.return_address is not None
    assert token_parts(command.return_address.token) == ("c1", play.call())


def test_the_answer_goes_to_the_reply_queue_or_to_the_agents_topic() -> None:
    play = Play()
    play.ask(reply_to="amq.gen-1")
    play.answer(says("a"))
    play.ask()
    play.answer(says("b"))
    first, second = (command for command in play.sent.values() if command.name.startswith("end:"))
    assert (first.address, second.address, second.topic) == ("amq.gen-1", "", "agent.response.assistant")


def test_one_tool_is_called_and_its_result_goes_back_to_the_model() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add"))
    (command,) = play.open.values()
    assert command.event == ToolInvoke(
        tool="add", arguments={"at": 0}, call_id="t0", agent="assistant", policy=Policy(), origins=("user",)
    )
    assert command.topic == "tool.invoke.desk"
    play.answer(result("42"), to="add")
    assert play.requests[-1].messages[-1].parts == (ToolResultPart(call_id="t0", parts=(TextPart(text="42"),)),)
    play.answer(says("it is 42"))
    (response,) = play.responses
    assert (response.model_calls, response.tool_calls, response.output) == (2, 1, "it is 42")
    play.check()


def test_tool_results_in_any_order_are_put_together_once_in_call_order() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", "look", "add"))
    first, second, third = play.open
    for call, text in ((third, "3"), (first, "1"), (second, "2")):
        assert len(play.requests) == 1
        play.take(result(text), call=call)
    assert len(play.requests) == 2
    parts = play.requests[-1].messages[-1].parts
    assert [(part.call_id, part.parts[0].text) for part in parts] == [("t0", "1"), ("t1", "2"), ("t2", "3")]  # type: ignore[union-attr]
    play.check()


def test_two_calls_under_the_same_id_of_the_model_are_two_calls() -> None:
    play = Play()
    play.ask()
    reply = calls("add", "look")
    parts = tuple(part.model_copy(update={"call_id": "same"}) for part in reply.message.tool_calls)
    play.answer(reply.model_copy(update={"message": Message(role="assistant", parts=parts)}))
    assert len(play.open) == 2
    play.answer(result("1"), to="look")
    play.answer(result("2"), to="add")
    assert len(play.requests) == 2


def test_an_unknown_tool_is_answered_with_those_there_are() -> None:
    play = Play(agent("add", "look"))
    play.ask()
    play.answer(calls("fly"))
    (part,) = play.requests[-1].messages[-1].parts
    assert isinstance(part, ToolResultPart)
    assert part.is_error
    assert part.parts == (TextPart(text="there is no tool 'fly'; the tools are: add, look"),)
    play.check()


def test_an_unknown_tool_beside_a_known_one_waits_for_it() -> None:
    play = Play()
    play.ask()
    play.answer(calls("fly", "add"))
    assert len(play.requests) == 1
    play.answer(result("7"), to="add")
    assert [part.is_error for part in play.requests[-1].messages[-1].parts] == [True, False]  # type: ignore[union-attr]


def test_the_limit_of_model_calls_fails_the_task_and_says_so() -> None:
    play = Play(agent("add", max_model_calls=2))
    play.ask()
    for _ in range(2):
        play.answer(calls("add", text="let me see"))
        if play.open:
            play.answer(result("1"), to="add")
    (response,) = play.responses
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.output) == ("limit", "let me see")
    assert response.model_calls == 2
    play.check()


@pytest.mark.parametrize(("stop", "code"), [("refusal", "refused"), ("context_window", "context_window")])
def test_a_refusal_and_a_full_window_fail_the_task_even_with_tool_calls(stop: str, code: str) -> None:
    for reply in (says("no", stop_reason=stop), calls("add", stop_reason=stop)):
        play = Play()
        play.ask()
        play.answer(reply)
        (response,) = play.responses
        assert response.error is not None
        assert (response.status, response.error.code) == ("failed", code)
        play.check()


def test_a_task_that_is_over_on_arrival_is_answered_as_expired_and_calls_nobody() -> None:
    play = Play()
    play.ask(deadline_ms=play.clock.now_ms())
    (response,) = play.responses
    assert response.status == "expired"
    assert not play.requests
    play.check()


def test_a_deadline_beyond_all_reason_is_cut() -> None:
    play = Play()
    play.ask(deadline_ms=10**30)
    (timer,) = play.timers.values()
    assert timer.due_ms == play.clock.now_ms() + LONGEST_TASK * 1000


def test_the_deadline_timer_expires_the_task() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add"))
    play.fire()
    (response,) = play.responses
    assert response.error is not None
    assert (response.status, response.error.message) == ("expired", "not finished within 60 s")
    assert not play.open
    play.check()


def test_timers_of_two_tenants_never_meet() -> None:
    ids = set()
    for tenant in ("a", "b"):
        play = Play(tenant=tenant)
        play.ask(id="same")
        ids |= set(play.timers)
    assert len(ids) == 2


def test_a_task_in_mid_turn_waits_and_each_has_one_end() -> None:
    play = Play()
    first = play.ask("one")
    play.answer(calls("add"))
    second = play.ask("two")
    third = play.ask("three")
    assert len(play.requests) == 1
    play.answer(result("1"), to="add")
    play.answer(says("done one"))
    assert play.requests[-1].messages[-1].text == "two"
    play.answer(says("done two"))
    play.answer(says("done three"))
    assert [(r.task_id, r.output) for r in play.responses] == [
        (first, "done one"),
        (second, "done two"),
        (third, "done three"),
    ]
    play.check()


def test_a_waiting_task_expires_without_disturbing_the_turn() -> None:
    play = Play()
    play.ask("slow", deadline_ms=play.clock.now_ms() + 600_000)
    waiting = play.ask("quick", deadline_ms=play.clock.now_ms() + 1000)
    play.fire()
    (response,) = play.responses
    assert (response.task_id, response.status, response.model_calls) == (waiting, "expired", 0)
    assert len(play.open) == 1
    play.answer(says("done"))
    assert len(play.responses) == 2
    play.check()


def test_a_turn_that_ends_amid_tools_leaves_a_transcript_that_models_accept() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", "look"))
    play.answer(result("7"), to="look")
    play.fire()
    play.ask("next")
    *_, asked, answered, following = play.requests[-1].messages
    assert [call.call_id for call in asked.tool_calls] == ["t0", "t1"]
    assert [(part.call_id, part.is_error) for part in answered.parts] == [("t0", True), ("t1", False)]  # type: ignore[union-attr]
    assert following.text == "next"
    play.check()


def test_an_empty_reply_completes_and_leaves_no_empty_message() -> None:
    play = Play()
    play.ask()
    play.answer(says(""))
    assert play.responses[0].output == ""
    assert len(play.state.messages) == 1


# -- stalls


def test_a_stalled_turn_waits_far_beyond_its_deadline_and_its_command_is_the_letters_business() -> None:
    play = Play()
    play.ask()
    deadline = next(iter(play.timers.values()))
    call = play.call()
    play.stall(call)
    assert not play.open, "recovery would publish the command again and fill the dead-letter queue"
    (timer,) = play.timers.values()
    assert timer.due_ms == play.clock.now_ms() + STALL_LIMIT * 1000
    play.fire(deadline)
    assert play.kinds() == ["answer_ignored"]
    assert not play.responses
    play.check()


def test_an_answer_resumes_a_stalled_turn_with_a_fresh_deadline_for_all_that_follows() -> None:
    play = Play()
    play.ask()
    call = play.call()
    play.stall(call)
    play.clock.advance(3 * 86_400)
    play.take(calls("add"), call=call)
    fresh = play.clock.now_ms() + TIMEOUT * 1000
    (timer,) = play.timers.values()
    assert timer.due_ms == fresh
    (command,) = play.open.values()
    assert command.deadline_ms == fresh
    play.fire()
    assert play.responses[0].status == "expired"
    play.check()


def test_a_turn_stays_stalled_until_its_last_stalled_call_is_answered() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", "look", "add"))
    first, second, third = play.open
    play.stall(first)
    play.stall(second)
    limit = next(iter(play.timers.values()))
    play.take(result("3"), call=third)
    play.take(result("1"), call=first)
    assert play.timers[limit.id] == limit, "the clock ran although a call was still stalled"
    play.take(result("2"), call=second)
    assert play.timers[limit.id].due_ms == play.clock.now_ms() + TIMEOUT * 1000
    assert len(play.requests) == 2
    play.check()


def test_a_stall_that_nobody_mends_fails_the_task_in_the_end() -> None:
    play = Play()
    play.ask()
    play.stall(play.call(), "no such model")
    play.fire()
    (response,) = play.responses
    assert response.error is not None
    assert (response.status, response.error.code) == ("failed", "stalled")
    assert response.error.message.endswith("within 7 days: no such model")
    play.check()


def test_a_resumed_call_that_ends_the_task_leaves_no_timer() -> None:
    play = Play()
    play.ask()
    call = play.call()
    play.stall(call)
    play.take(says("at last"), call=call)
    assert not play.timers
    assert play.responses[0].status == "completed"
    play.check()


def test_a_call_that_stalls_twice_is_stalled_once() -> None:
    play = Play()
    play.ask()
    call = play.call()
    play.stall(call, "first")
    play.stall(call, "second")
    assert play.state.turn is not None
    assert [stalled.reason for stalled in play.state.turn.stalled] == ["second"]


# -- what changes nothing


def test_a_late_expiry_of_an_earlier_task_does_not_touch_the_present_one() -> None:
    play = Play()
    play.ask("one")
    old = play.call()
    play.answer(says("done"))
    play.ask("two")
    before = play.state
    play.expire(old)
    assert play.kinds() == ["answer_ignored"]
    assert play.state == before
    play.expire(play.call())
    assert [response.status for response in play.responses] == ["completed", "expired"]
    play.check()


@pytest.mark.parametrize("event", [says("again"), result("again")])
def test_late_repeated_and_foreign_answers_are_noted_and_change_nothing(event: ToolResult) -> None:
    play = Play()
    play.ask()
    model = play.call()
    play.answer(calls("add", "look"))
    done = play.call("add")
    play.answer(result("1"), to="add")
    before = play.state
    for call in (model, done, "a-call-of-nobody", ""):
        play.take(event, call=call)
        assert play.kinds() == ["answer_ignored"]
        assert play.last is not None
        assert not play.last.commands
    assert play.state == before
    play.check()


def test_an_answer_of_the_wrong_kind_is_no_answer() -> None:
    play = Play()
    play.ask()
    play.take(result("I am a tool"), call=play.call())
    assert isinstance(play.state.turn and play.state.turn.phase, AwaitingModel)
    play.answer(calls("add"))
    play.take(says("I am a model"), call=play.call())
    assert isinstance(play.state.turn and play.state.turn.phase, AwaitingTools)


def test_a_result_with_an_empty_json_part_can_be_read_again() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add"))
    play.answer(ToolResult(parts=(JsonPart(data=None), JsonPart(data={"a": None}))), to="add")
    play.check()


def test_return_tokens_survive_any_text_and_refuse_what_is_none() -> None:
    for text in ("a", 'quote"s', "ü/\n", "[1]"):
        assert token_parts(return_token(text, text)) == (text, text)
    for bad in ("", "x", "[]", '["a"]', '["a",1]', '["a",""]', "{}", "null", '["a","b","c"]'):
        with pytest.raises(ValueError):
            token_parts(bad)


def test_statuses_tell_the_steps_in_order() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", text="hm"))
    play.answer(result("1"), to="add")
    play.answer(says("one"))
    assert play.statuses == [
        ("accepted", ""),
        ("model_call", ""),
        ("model_reply", ""),
        ("tool_call", "add"),
        ("tool_result", "add"),
        ("model_call", ""),
        ("ended", ""),
    ]


def test_an_input_made_of_parts_reaches_the_model_as_it_is() -> None:
    play = Play()
    parts = (TextPart(text="see"), JsonPart(data=[1, None]))
    play.take(AgentTask(input=parts))
    assert play.requests[0].messages[0].parts == parts


# -- a letter that is sent on long after its deadline


def test_a_stalled_model_call_that_comes_back_expired_is_made_again_with_a_fresh_deadline() -> None:
    play = Play()
    play.ask("hi")
    call = play.call()
    play.stall(call)
    play.clock.advance(86_400)
    play.expire(call)
    assert not play.responses
    (again,) = play.open.values()
    assert isinstance(again.event, LlmRequest)
    assert again.event == play.requests[0]
    assert again.deadline_ms == play.clock.now_ms() + TIMEOUT * 1000
    play.take(says("too late"), call=call)
    assert play.kinds() == ["answer_ignored"]
    play.answer(says("done"))
    assert play.responses[0].model_calls == 1
    play.check()


def test_a_tool_call_that_expires_while_another_is_stalled_is_made_again() -> None:
    play = Play()
    play.ask()
    play.answer(calls("add", "look"))
    add, look = play.open
    play.stall(add)
    play.clock.advance(86_400)
    play.expire(look)
    assert play.call("look") != look
    again = play.open[play.call("look")]
    assert again.event == play.sent[look].event
    play.answer(result("2"), to="look")
    play.expire(add)
    play.answer(result("1"), to="add")
    assert [part.call_id for part in play.requests[-1].messages[-1].parts] == ["t0", "t1"]  # type: ignore[union-attr]
    play.check()


def test_a_repeated_call_that_expires_again_ends_the_task() -> None:
    play = Play()
    play.ask()
    call = play.call()
    play.stall(call)
    play.expire(call)
    play.expire(play.call())
    assert play.responses[0].status == "expired"
    play.check()


def test_a_call_whose_arguments_cannot_be_read_is_answered_and_not_made() -> None:
    play = Play()
    play.ask()
    reply = calls("add", "look")
    first, second = reply.message.tool_calls
    parts = (first.model_copy(update={"arguments": {}, "problem": "the arguments are no valid JSON"}), second)
    play.answer(reply.model_copy(update={"message": Message(role="assistant", parts=parts)}))
    assert [command.event.tool for command in play.open.values() if isinstance(command.event, ToolInvoke)] == ["look"]
    play.answer(result("7"), to="look")
    told, found = play.requests[-1].messages[-1].parts
    assert told == ToolResultPart(
        call_id="t0",
        parts=(TextPart(text="the tool was not called: the arguments are no valid JSON"),),
        is_error=True,
    )
    assert found == ToolResultPart(call_id="t1", parts=(TextPart(text="7"),))
    play.check()
