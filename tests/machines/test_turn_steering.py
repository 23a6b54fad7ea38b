"""A task that comes while another one runs: it joins, waits or takes over; and tasks that are cancelled, wherever they are."""

from __future__ import annotations

import pytest
from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentTask, TaskMode


def busy(mode: TaskMode = "steer", **fields: object) -> Play:
    """A conversation whose task `a` waits for its tool, with the task `b` come after it."""
    play = Play(agent("add", "look", **fields))
    play.ask("first", id="a")
    play.answer(calls("add", text="I add."))
    play.take(AgentTask(input="second", mode=mode), id="b")
    return play


def ends(play: Play) -> list[tuple[str, str, str]]:
    return [(each.task_id, each.status, each.output) for each in play.responses]


def test_a_steering_task_is_heard_at_the_next_model_call_and_gets_the_same_answer() -> None:
    play = busy()
    assert len(play.requests) == 1, "it waits for the results that the model is owed"
    play.answer(result("42"), to="add")
    assert [message.text for message in play.requests[-1].messages][-1] == "second"
    play.check()
    play.answer(says("both"))
    assert ends(play) == [("b", "completed", "both"), ("a", "completed", "both")]
    assert (play.end_of("b").answered_by, play.end_of("a").answered_by) == ("a", "")
    assert b'"answered_by": "a"' in play.rows["default/task/b"]
    play.check()


def test_a_task_that_comes_during_the_last_reply_is_still_heard() -> None:
    play = Play(agent("add"))
    play.ask("first", id="a")
    play.take(AgentTask(input="second", mode="steer"), id="b")
    play.answer(says("the first"))
    assert play.responses == []
    assert [message.text for message in play.requests[-1].messages] == ["first", "the first", "second"]
    play.answer(says("the second"))
    assert ends(play) == [("b", "completed", "the second"), ("a", "completed", "the second")]
    play.check()


def test_a_task_that_was_not_heard_runs_by_itself_when_the_limit_ends_the_turn() -> None:
    play = Play(agent("add", max_model_calls=1))
    play.ask("first", id="a")
    play.take(AgentTask(input="second", mode="steer"), id="b")
    play.answer(says("the first"))
    assert ends(play) == [("a", "completed", "the first")]
    play.answer(says("the second"))
    assert ends(play)[1:] == [("b", "completed", "the second")]
    assert play.end_of("b").answered_by == ""
    play.check()


def test_a_queueing_task_waits_for_the_end_of_the_one_before_it() -> None:
    play = busy("queue")
    play.answer(result("42"), to="add")
    assert [message.text for message in play.requests[-1].messages][-1] != "second"
    play.answer(says("one"))
    play.answer(says("two"))
    assert ends(play) == [("a", "completed", "one"), ("b", "completed", "two")]


def test_an_interrupting_task_ends_the_running_one_with_what_it_has_said() -> None:
    play = busy("interrupt")
    assert ends(play) == [("a", "canceled", "I add.")]
    error = play.end_of("a").error
    assert error
    assert (error.code, "b" in error.message) == ("interrupted", True)
    call = next(call for call, command in play.sent.items() if command.name.startswith("tool:a"))
    assert play.stopped == [call], "its tool need not go on"
    play.take(result("late"), call=call)
    assert play.kinds() == ["answer_ignored"], "a late result is never spliced in"
    play.answer(says("b speaks"))
    assert ends(play)[1:] == [("b", "completed", "b speaks")]
    play.check()


def test_an_interrupting_task_goes_before_those_that_wait() -> None:
    play = Play(agent())
    play.ask("first", id="a")
    play.take(AgentTask(input="waits", mode="queue"), id="b")
    play.take(AgentTask(input="now", mode="interrupt"), id="c")
    play.answer(says("c speaks"))
    assert [each.task_id for each in play.responses] == ["a", "c"]
    play.check()


def test_the_agents_setting_counts_where_the_task_says_nothing() -> None:
    for mode, joined in (("steer", 1), ("queue", 0)):
        play = Play(agent(when_busy=mode))
        play.ask(id="a")
        play.ask(id="b")
        assert play.state.turn
        assert len(play.state.turn.joined) == joined


def test_joined_tasks_count_for_the_waiting_list() -> None:
    play = Play(agent(when_busy="steer", max_waiting=1))
    for task in ("a", "b", "c"):
        play.ask(id=task)
    error = play.end_of("c").error
    assert error
    assert error.code == "busy"


def test_the_deadline_of_a_joined_task_ends_it_alone() -> None:
    play = Play(agent("add"))
    play.ask("first", id="a")
    play.take(AgentTask(input="quick", mode="steer", timeout_seconds=5), id="b")
    play.fire()
    assert ends(play) == [("b", "expired", "")]
    play.check()
    play.answer(says("done"))
    assert ends(play)[1:] == [("a", "completed", "done")]


# -- cancelling


def test_a_cancelled_task_ends_at_once_with_what_it_has_said_and_its_calls_are_called_off() -> None:
    play = busy("queue")
    play.cancel("a", reason="not needed", by="anna")
    error = play.end_of("a").error
    assert error
    assert (error.code, error.message) == ("canceled", "canceled by anna: not needed")
    assert play.end_of("a").output == "I add."
    assert len(play.stopped) == 1
    assert play.state.turn, "the next one has begun"
    play.check()


@pytest.mark.parametrize("mode", ["queue", "steer"])
def test_a_task_that_waits_or_joined_is_cancelled_alone(mode: TaskMode) -> None:
    play = busy(mode)
    play.cancel("b")
    assert ends(play) == [("b", "canceled", "")]
    assert play.stopped == []
    play.answer(result("42"), to="add")
    play.answer(says("done"))
    assert ends(play)[1:] == [("a", "completed", "done")]
    play.check()


def test_a_task_that_has_ended_is_not_cancelled() -> None:
    play = Play()
    play.ask(id="a")
    play.answer(says("done"))
    play.cancel("a")
    assert play.kinds() == ["answer_ignored"]
    assert len(play.responses) == 1


def test_whoever_joined_and_was_heard_ends_with_the_turn() -> None:
    play = busy()
    play.answer(result("42"), to="add")
    play.cancel("a")
    assert ends(play) == [("b", "canceled", "I add."), ("a", "canceled", "I add.")]
    assert play.end_of("b").answered_by == "a"
    play.check()


def test_a_task_that_was_cancelled_before_it_came_never_begins() -> None:
    play = Play()
    play.machine._refused = "canceled by anna"
    play.ask(id="a")
    assert ends(play) == [("a", "canceled", "")]
    assert play.requests == []
    play.check()


def test_a_delegated_task_is_found_by_the_one_that_it_works_for() -> None:
    play = Play()
    play.take(AgentTask(input="help"), id="child", root_task_id="root")
    assert play.rows["default/under/root/child"] == b"child"
    assert {command.root_task_id for command in play.sent.values()} == {"root"}
    play.cancel("child")
    play.check()
