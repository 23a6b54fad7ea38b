"""A task may say what shape its answer shall have."""

from __future__ import annotations

from typing import Any

from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentTask

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def asked(play: Play) -> None:
    play.take(AgentTask(input="count", output_schema=SCHEMA), id="task-1")


def test_the_schema_goes_with_every_call_for_a_reply_and_the_answer_is_the_value() -> None:
    play = Play(agent("add"))
    asked(play)
    play.answer(calls("add"))
    play.answer(result("3"), to="add")
    play.answer(says('```json\n{"count": 3}\n```', structured={"count": 3}))
    assert [request.output_schema for request in play.requests] == [SCHEMA, SCHEMA]
    assert (play.responses[-1].status, play.responses[-1].output) == ("completed", '{"count": 3}')
    play.check()


def test_an_answer_of_another_shape_is_a_failure_that_says_why() -> None:
    play = Play(agent())
    asked(play)
    play.answer(says("three", problem="the reply is no JSON"))
    response = play.responses[-1]
    assert (response.status, response.output) == ("failed", "three")
    assert response.error is not None
    assert response.error.code == "invalid_output"
    assert "the reply is no JSON" in response.error.message
    play.check()


def test_a_task_without_a_schema_asks_for_none() -> None:
    play = Play(agent())
    play.ask("hello")
    play.answer(says("hi"))
    assert [request.output_schema for request in play.requests] == [None]
    assert play.responses[-1].output == "hi"
