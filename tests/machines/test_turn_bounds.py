"""What one turn may use, what it is told on the way, and calls that are given up or cut off."""

from __future__ import annotations

from typing import Any

import pytest
from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentStatus, ToolInvoke, ToolResultPart, Usage, text_of


def notices(play: Play) -> list[str]:
    return [kind for kind, _ in play.statuses if kind == "limit"]


def told(play: Play) -> list[str]:
    parts = play.requests[-1].messages[-1].parts
    return [text_of(part.parts) for part in parts if isinstance(part, ToolResultPart)]


@pytest.mark.parametrize(
    ("limit", "reply", "sentence"),
    [
        ({"max_tool_calls": 1}, {}, "the limit of 1 tool calls for one task is reached"),
        ({"max_tokens": 100}, {"usage": Usage(input_tokens=60, output_tokens=40)}, "the limit of 100 tokens"),
        ({"max_cost": 0.5}, {"cost": 0.6}, "the limit of 0.5 in money"),
    ],
)
def test_each_limit_ends_the_turn_with_what_there_is_and_the_reason(
    limit: dict[str, Any], reply: dict[str, Any], sentence: str
) -> None:
    play = Play(agent("add", **limit))
    play.ask(id="t")
    play.answer(calls("add", "add", text="So far so good.", **reply))
    end = play.end_of("t")
    assert end.error
    assert (end.status, end.output, end.error.code) == ("failed", "So far so good.", "limit")
    assert sentence in end.error.message
    assert not play.open, "no tool was called"
    assert notices(play) or "max_tool_calls" in limit
    play.check()


def test_a_final_answer_is_delivered_also_above_a_limit() -> None:
    play = Play(agent(max_tokens=10))
    play.ask(id="t")
    play.answer(says("done", usage=Usage(output_tokens=50), cost=0.25))
    assert (play.end_of("t").status, play.end_of("t").cost) == ("completed", 0.25)


def test_watchers_are_told_at_eighty_and_at_a_hundred_percent_once() -> None:
    play = Play(agent("add", max_model_calls=5, max_tokens=100))
    play.ask()
    counts = []
    for _ in range(4):
        play.answer(calls("add", usage=Usage(output_tokens=20)))
        play.answer(result("1"), to="add")
        counts.append(len(notices(play)))
    assert counts == [0, 0, 1, 3], "4 of 5 calls; then 5 of 5, and 80 of 100 tokens"


def test_the_cost_of_calls_adds_up() -> None:
    play = Play(agent("add"))
    play.ask(id="t")
    play.answer(calls("add", cost=0.25))
    play.answer(result("1"), to="add")
    play.answer(says("done", cost=0.5))
    assert play.end_of("t").cost == 0.75


def test_the_wall_clock_is_told_of_and_ends_the_turn_with_what_was_said() -> None:
    play = Play(agent("add", max_seconds=10.0))
    play.ask(id="t")
    play.answer(calls("add", text="Let me see."))
    play.fire()
    assert notices(play) == ["limit"]
    assert play.responses == []
    play.check()
    play.fire()
    assert (play.end_of("t").status, play.end_of("t").output) == ("expired", "Let me see.")
    play.check()


def test_a_refusal_of_a_worker_ends_the_turn_with_its_reason() -> None:
    play = Play(agent("add"))
    play.ask(id="t")
    play.answer(calls("add", text="So far."))
    play.answer(result("1"), to="add")
    play.refuse(play.call(), code="limit", message="the agent's daily limit of 5 is reached", limit="agent.day")
    end = play.end_of("t")
    assert end.error
    assert (end.status, end.output, end.error.message) == (
        "failed",
        "So far.",
        "the agent's daily limit of 5 is reached",
    )
    assert notices(play) == ["limit"]
    play.check()


def test_a_refused_tool_call_may_be_told_to_the_model_instead() -> None:
    play = Play(agent("frail"))
    play.ask()
    play.answer(calls("frail"))
    play.refuse(play.call("frail"), message="too many calls today")
    assert told(play) == ["frail was not called: too many calls today"]
    play.check()


def test_a_tool_that_died_stalls_the_turn_or_is_told_to_the_model() -> None:
    play = Play(agent("add", "frail"))
    play.ask()
    play.answer(calls("add", "frail"))
    play.stall(play.call("frail"), "it cannot be reached")
    assert play.state.turn
    assert not play.state.turn.stalled
    play.check()
    add = play.call("add")
    play.stall(add)
    assert play.state.turn.state == "stalled"
    play.take(result("1"), call=add)
    assert told(play) == ["1", "the call of frail failed: it cannot be reached"]
    play.check()


def test_a_tool_with_a_deadline_is_given_up_while_the_turn_goes_on() -> None:
    play = Play(agent("add", "slow"))
    play.ask()
    play.answer(calls("slow", "add"))
    slow = play.call("slow")
    assert play.sent[slow].deadline_ms == play.clock.now_ms() + 5000
    play.answer(result("1"), to="add")
    play.fire()
    assert told(play) == ["no answer of slow came within 5 s; whether it did anything is not known", "1"]
    assert play.stopped == [slow]
    play.take(result("late"), call=slow)
    assert play.kinds() == ["answer_ignored"]
    play.check()


def test_a_tool_with_a_deadline_that_was_not_begun_in_time_is_told_to_the_model() -> None:
    play = Play(agent("slow"))
    play.ask()
    play.answer(calls("slow"))
    play.clock.advance(6)
    play.expire(play.call("slow"))
    assert told(play)[0].startswith("no answer of slow came within 5 s")
    assert play.state.turn
    play.check()


# -- repeated failures


def fail(play: Play, times: int) -> None:
    for _ in range(times):
        play.answer(calls("add"))
        play.answer(result("no such thing", is_error=True), to="add")


def test_a_call_that_failed_thrice_with_the_same_arguments_is_not_made_again() -> None:
    play = Play(agent("add", max_model_calls=9))
    play.ask()
    fail(play, 3)
    play.answer(calls("add"))
    assert told(play)[0].startswith("add was not called: it failed 3 times with exactly these arguments")
    assert len([1 for command in play.sent.values() if isinstance(command.event, ToolInvoke)]) == 3
    play.answer(calls("look", "add"))  # the second call has other arguments
    assert [command.event.arguments for command in play.open.values()] == [{"at": 1}]  # type: ignore[union-attr]
    play.check()


def test_a_success_makes_the_count_begin_anew() -> None:
    play = Play(agent("add", max_model_calls=20))
    play.ask()
    for _ in range(3):
        fail(play, 2)
        play.answer(calls("add"))
        play.answer(result("fine"), to="add")
    assert told(play) == ["fine"]


def test_the_number_of_repeats_is_the_agents_and_nought_is_no_limit() -> None:
    for limit, made in ((1, 1), (0, 5)):
        play = Play(agent("add", max_model_calls=20, max_repeats=limit))
        play.ask()
        for _ in range(5):
            play.answer(calls("add"))
            if any(isinstance(command.event, ToolInvoke) for command in play.open.values()):
                play.answer(result("no", is_error=True), to="add")
        assert len([1 for command in play.sent.values() if isinstance(command.event, ToolInvoke)]) == made


def test_notices_have_a_text_for_people() -> None:
    play = Play(agent(max_model_calls=1))
    play.ask()
    assert play.last
    texts = [signal.event.text for signal in play.last.signals if isinstance(signal.event, AgentStatus)]
    assert "100 % of the limit of 1 model calls are used (1)" in texts
