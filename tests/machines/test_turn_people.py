"""Approvals and questions: the turn waits in the store, and a person, or the timer, decides."""

from __future__ import annotations

import pytest
from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentTask, ApprovalRequest, ToolInvoke, ToolResultPart, text_of
from rockbot.machines.turn_records import AskDecided
from rockbot.policies import Policy, argument_hash


def parked(*tools: str, **fields: object) -> Play:
    """A turn whose model has called these tools."""
    play = Play(agent("pay", "add", "ask_user", approval_seconds=600.0, **fields))
    play.ask(id="t")
    play.answer(calls(*tools))
    return play


def sent(play: Play, tool: str) -> list[ToolInvoke]:
    events = [command.event for command in play.sent.values()]
    return [event for event in events if isinstance(event, ToolInvoke) and event.tool == tool]


def told(play: Play) -> list[str]:
    """What the model was told of its last calls."""
    return [text_of(part.parts) for part in play.requests[-1].messages[-1].parts if isinstance(part, ToolResultPart)]


def state(play: Play) -> str:
    return play.state.turn.state if play.state.turn else ""


def test_a_call_that_needs_approval_waits_and_is_listed_while_the_others_run() -> None:
    play = parked("pay", "add")
    (request,) = play.asked
    assert (request.kind, request.tool, request.arguments, request.task_id) == ("approval", "pay", {"at": 0}, "t")
    assert request.argument_hash == argument_hash("pay", {"at": 0})
    assert request.expires_ms == play.clock.now_ms() + 600_000
    assert play.approvals == [request.approval_id]
    assert sent(play, "pay") == []
    assert len(sent(play, "add")) == 1
    assert state(play) == "awaiting_tools"
    play.answer(result("42"), to="add")
    assert state(play) == "awaiting_approval"
    assert b"awaiting_approval" in play.rows["default/task/t"]
    play.check()


def test_an_approved_call_is_made_with_what_was_agreed_to() -> None:
    play = parked("pay")
    approval = play.approvals[0]
    play.decide("approve", by="anna", argument_hash=play.asked[0].argument_hash)
    (invoke,) = sent(play, "pay")
    assert invoke.approval
    assert invoke.approval.covers("pay", {"at": 0})
    assert (invoke.approval.by, invoke.approval.approval_id) == ("anna", approval)
    assert play.approvals == []
    assert b'"accepted"' in play.rows["default/task/t"]
    play.answer(result("paid"), to="pay")
    assert told(play) == ["paid"]
    play.answer(says("done"))
    assert play.end_of("t").status == "completed"
    play.check()


def test_who_decided_what_and_when_is_in_the_journal() -> None:
    play = parked("pay")
    play.clock.advance(5)
    play.decide("deny", by="bert", text="too dear")
    (record,) = [each for each in map(play.machine.load_record, play.records) if isinstance(each, AskDecided)]
    assert (record.by, record.at_ms, record.decision) == ("bert", play.clock.now_ms(), "deny")
    assert (record.argument_hash, record.text) == (argument_hash("pay", {"at": 0}), "too dear")


def test_arguments_that_a_person_changed_are_called_and_the_model_is_told() -> None:
    play = parked("pay")
    play.decide("approve", arguments={"at": 7})
    (invoke,) = sent(play, "pay")
    assert invoke.arguments == {"at": 7}
    assert invoke.approval
    assert invoke.approval.covers("pay", {"at": 7})
    play.answer(result("paid"), to="pay")
    assert told(play) == ['[a person changed the arguments of this call to {"at": 7}]\npaid']


def test_a_decision_on_other_arguments_or_of_another_kind_does_not_count() -> None:
    play = parked("pay", "ask_user")
    payment, question = (request.approval_id for request in play.asked)
    play.decide("approve", approval=payment, argument_hash="0" * 64)
    assert play.kinds() == ["answer_ignored"]
    play.decide("answer", approval=payment, text="yes")
    assert play.kinds() == ["answer_ignored"]
    play.decide("approve", approval=question)
    assert play.kinds() == ["answer_ignored"]
    assert sorted(play.approvals) == sorted([payment, question])
    assert sent(play, "pay") == []
    play.check()


def test_a_decision_that_comes_twice_counts_once() -> None:
    play = parked("pay")
    approval = play.approvals[0]
    play.decide("approve", by="anna")
    play.decide("deny", approval=approval, by="bert")
    assert play.kinds() == ["answer_ignored"]
    assert len(sent(play, "pay")) == 1
    play.check()


def test_nobody_decides_in_time_and_the_model_is_told() -> None:
    play = parked("pay")
    play.fire()
    assert told(play) == ["pay was not called: it needs a person's approval, and nobody decided in time."]
    assert play.approvals == []
    play.answer(says("sorry"))
    assert play.end_of("t").status == "completed"
    play.check()


def test_a_denial_is_told_to_the_model_with_its_reason() -> None:
    play = parked("pay")
    play.decide("deny", by="anna", text="not this month")
    assert told(play) == ["pay was not called: it was denied by anna: not this month"]


def test_always_means_this_tool_in_this_conversation_from_then_on() -> None:
    play = parked("pay")
    play.decide("approve", always=True, by="anna")
    play.answer(result("paid"), to="pay")
    play.answer(calls("pay"))
    assert play.approvals == []
    again = sent(play, "pay")[-1]
    assert again.approval, "its worker wants to see one, too"
    play.answer(result("paid"), to="pay")
    play.answer(says("done"))
    play.ask(id="u")
    play.answer(calls("pay"))
    assert play.approvals == [], "a later task of the conversation"
    play.check()


def test_the_clock_stands_while_people_are_asked_and_runs_afresh_after_that() -> None:
    play = parked("pay")
    play.clock.advance(500)  # far beyond the task's own 60 seconds
    play.decide("approve")
    assert play.state.turn
    assert play.state.turn.deadline_ms == play.clock.now_ms() + 60_000
    play.fire()
    assert play.end_of("t").status == "expired"
    play.check()


def test_a_worker_that_wants_an_approval_gets_one() -> None:
    play = parked("add")
    call = play.call("add")
    play.refuse(call, code="approval_required", message="the host's policy asks")
    assert [request.text for request in play.asked] == ["the host's policy asks"]
    assert state(play) == "awaiting_approval"
    play.check()
    play.decide("approve", by="anna")
    play.refuse(play.call("add"), code="approval_required", message="still not")
    assert told(play) == ["add was not called: still not"], "it is not asked for over and over"
    play.check()


def test_a_policy_asks_or_denies_by_arguments() -> None:
    rules = [
        {"tool": "add", "arguments": {"at": 0}, "then": "deny", "reason": "not the first"},
        {"tool": "add", "then": "ask"},
    ]
    play = Play(agent("add", policy=Policy.model_validate({"rules": rules})))
    play.ask()
    play.answer(calls("add", "add"))
    assert [request.arguments for request in play.asked] == [{"at": 1}]
    play.decide("deny")
    assert told(play) == [
        "add was not called, because that is not allowed: not the first",
        "add was not called: it was denied.",
    ]


def test_content_from_the_web_makes_a_rule_about_it_ask() -> None:
    rules = [{"tool": "add", "when_tainted": "tool:look", "then": "ask"}]
    play = Play(agent("add", "look", policy=Policy.model_validate({"rules": rules})))
    play.ask()
    play.answer(calls("add"))
    assert play.asked == []
    play.answer(result("1"), to="add")
    play.answer(calls("look"))
    play.answer(result("from the web"), to="look")
    play.answer(calls("add"))
    assert len(play.asked) == 1


# -- questions


def test_a_question_waits_for_its_answer() -> None:
    play = parked("ask_user")
    (request,) = play.asked
    assert (request.kind, request.text) == ("question", "why?")
    assert state(play) == "awaiting_input"
    assert sent(play, "ask_user") == [], "no worker has this tool"
    play.decide("answer", text="because", by="anna")
    assert told(play) == ["because"]
    play.check()


def test_a_task_that_comes_while_a_question_is_open_answers_it() -> None:
    play = parked("ask_user", when_busy="steer")
    play.ask("blue, please", id="u")
    assert told(play) == ["blue, please"]
    play.answer(says("It is blue."))
    assert [(each.task_id, each.output, each.answered_by) for each in play.responses] == [
        ("u", "It is blue.", "t"),
        ("t", "It is blue.", ""),
    ]
    play.check()


def test_a_question_that_nobody_answers_is_told_to_the_model() -> None:
    play = parked("ask_user")
    play.fire()
    assert told(play) == ["Nobody answered in time."]
    play.check()


def test_a_question_without_a_text_is_answered_with_what_is_wrong() -> None:
    play = Play(agent("ask_user"))
    play.ask()
    reply = calls("ask_user")
    broken = reply.message.tool_calls[0].model_copy(update={"arguments": {"question": "", "choices": "a"}})
    message = reply.message.model_copy(update={"parts": (broken,)})
    play.answer(reply.model_copy(update={"message": message}))
    assert play.asked == []
    assert told(play)[0].startswith("the arguments do not fit the tool's schema: question: ")


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_a_turn_that_ends_takes_its_questions_off_the_list(how: str) -> None:
    play = parked("pay", "ask_user")
    assert len(play.approvals) == 2
    if how == "cancel":
        play.cancel("t")
    else:
        play.take(AgentTask(input="stop", mode="interrupt"), id="u")
    assert play.approvals == []
    assert play.end_of("t").status == "canceled"
    play.check()


def test_the_row_of_an_open_approval_says_everything_about_it() -> None:
    play = parked("pay")
    (row,) = [row for key, row in play.rows.items() if "/approval/" in key]
    assert ApprovalRequest.model_validate_json(row) == play.asked[0]
