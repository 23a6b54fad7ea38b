"""The offline model: the demo script, scripted conversations, faults, and the log of calls made."""

from __future__ import annotations

import ast
import json
import operator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot.events import (
    LlmRequest,
    LlmResponse,
    Message,
    TextPart,
    ToolResultPart,
    ToolSpec,
)
from rockbot.llm import LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome, TextDelta
from rockbot.settings import ScriptedSettings, Settings
from rockbot_handlers.llm.rules import parse_scripts
from rockbot_handlers.llm.scripted import ScriptedClient, open_scripted


def tool(name: str) -> ToolSpec:
    return ToolSpec(name=name, description="", input_schema={"type": "object"}, toolset="scripts")


SANDBOX = (tool("run_python"), tool("run_javascript"))


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


def results(*texts: str, failed: bool = False) -> Message:
    parts = tuple(
        ToolResultPart(call_id=f"c{number}", parts=(TextPart(text=text),), is_error=failed)
        for number, text in enumerate(texts)
    )
    return Message(role="user", parts=parts)


def request(*messages: Message, model: str = "scripted/demo", tools: tuple[ToolSpec, ...] = SANDBOX) -> LlmRequest:
    return LlmRequest(model=model, messages=messages, tools=tools)


async def ask(client: ScriptedClient, *messages: Message, call_id: str = "call-1", **fields: Any) -> LlmResponse:
    return await client.complete(request(*messages, **fields), call_id=call_id, deadline=None)


@pytest.fixture
def demo() -> ScriptedClient:
    return open_scripted(Settings())


def scripted(rules: str, **options: Any) -> ScriptedClient:
    return ScriptedClient(parse_scripts(rules, source="test", syntax="toml"), **options)


async def test_arithmetic_is_handed_to_the_python_sandbox_and_its_value_quoted(demo: ScriptedClient) -> None:
    first = await ask(demo, user("What is 6 times 7?"))
    (call,) = first.message.tool_calls
    assert (call.tool, call.arguments, first.stop_reason) == ("run_python", {"code": "6 * 7"}, "tool_use")

    second = await ask(demo, user("What is 6 times 7?"), first.message, results("value: 42"), call_id="call-2")
    assert second.message.text.startswith("6 * 7 = 42\n")
    assert "not a language model" in second.message.text
    assert (second.message.tool_calls, second.stop_reason) == ((), "end_turn")


@given(st.integers(0, 10**9), st.sampled_from("+-*"), st.integers(0, 10**9))
async def test_generated_arithmetic_is_sent_as_code_of_the_same_value(a: int, sign: str, b: int) -> None:
    reply = await ask(open_scripted(Settings()), user(f"How much is {a:,} {sign} {b}?"))
    (call,) = reply.message.tool_calls
    tree = ast.parse(call.arguments["code"], mode="eval").body
    assert isinstance(tree, ast.BinOp)
    operands = (ast.literal_eval(tree.left), ast.literal_eval(tree.right))
    apply = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}[type(tree.op)]
    assert apply(*operands) == {"+": a + b, "-": a - b, "*": a * b}[sign]


@pytest.mark.parametrize(
    ("fence", "expected"), [("python", "run_python"), ("py", "run_python"), ("js", "run_javascript")]
)
async def test_fenced_code_is_run_as_it_is(demo: ScriptedClient, fence: str, expected: str) -> None:
    code = "x = 1\nprint('$x', 2 + 3)\n"
    reply = await ask(demo, user(f"Run this:\n```{fence}\n{code}```\nplease"))
    (call,) = reply.message.tool_calls
    assert (call.tool, call.arguments) == (expected, {"code": code})


async def test_arithmetic_goes_to_javascript_when_the_text_says_so(demo: ScriptedClient) -> None:
    reply = await ask(demo, user("Use JavaScript to compute 2 ** 5"))
    assert reply.message.tool_calls[0].tool == "run_javascript"


async def test_a_failed_tool_is_quoted_as_failed(demo: ScriptedClient) -> None:
    first = await ask(demo, user("```python\n1/0\n```"))
    told = "error: ZeroDivisionError: division by zero"
    reply = await ask(demo, user("```python\n1/0\n```"), first.message, results(told, failed=True))
    assert "reported a failure" in reply.message.text
    assert told in reply.message.text


async def test_other_text_gets_an_honest_answer(demo: ScriptedClient) -> None:
    reply = await ask(demo, user("Who wrote Faust?"))
    assert "not a language model" in reply.message.text
    assert reply.message.tool_calls == ()


async def test_without_the_tool_nothing_is_computed(demo: ScriptedClient) -> None:
    reply = await ask(demo, user("6 times 7"), tools=())
    assert reply.message.tool_calls == ()
    assert "no run_python tool" in reply.message.text
    assert "42" not in reply.message.text


async def test_equal_calls_get_equal_replies_and_tool_call_ids_follow_the_call_id(demo: ScriptedClient) -> None:
    again = open_scripted(Settings())
    assert await ask(demo, user("1+1")) == await ask(again, user("1+1"))
    other = await ask(demo, user("1+1"), call_id="call-2")
    assert other.message.tool_calls[0].call_id != (await ask(demo, user("1+1"))).message.tool_calls[0].call_id


async def test_a_later_question_in_a_conversation_starts_at_step_one(demo: ScriptedClient) -> None:
    first = await ask(demo, user("1+1"))
    told = (user("1+1"), first.message, results("value: 2"))
    second = await ask(demo, *told)
    third = await ask(demo, *told, second.message, user("What is 3 plus 4?"))
    assert third.message.tool_calls[0].arguments == {"code": "3 + 4"}


CONVERSATION = """
[[scripts.trip.rules]]
name = "ask two tools"
when = { step = 1, user = "to (?P<city>[A-Z]\\\\w+)" }
reply = "Looking at $city."
calls = [
  { tool = "weather", arguments = { city = "$city", days = 3, more = { tags = ["$city!", "$$5"] } } },
  { tool = "hotels", arguments = { city = "$city" } },
]

[[scripts.trip.rules]]
name = "end"
when = { last = "tool", step = 2, result = "sunny" }
reply = "Go. $result"
stop_reason = "max_tokens"
"""


async def test_a_whole_conversation_is_scripted_with_parallel_calls_and_placeholders() -> None:
    client = scripted(CONVERSATION)
    first = await ask(client, user("A trip to Rome"), model="scripted/trip")
    weather, hotels = first.message.tool_calls
    assert first.message.text == "Looking at Rome."
    assert weather.arguments == {"city": "Rome", "days": 3, "more": {"tags": ["Rome!", "$5"]}}
    assert (hotels.tool, hotels.call_id != weather.call_id) == ("hotels", True)
    told = (user("A trip to Rome"), first.message, results("sunny", "full"))
    last = await ask(client, *told, model="scripted/trip")
    assert (last.message.text, last.stop_reason) == ("Go. sunny\n\nfull", "max_tokens")


async def test_a_conversation_that_no_rule_fits_is_a_permanent_error() -> None:
    with pytest.raises(LlmPermanent, match="no rule of script 'trip' fits step 1"):
        await ask(scripted(CONVERSATION), user("stay at home"), model="scripted/trip")


async def test_an_unknown_script_is_a_permanent_error_that_lists_the_known_ones(demo: ScriptedClient) -> None:
    with pytest.raises(LlmPermanent, match=r"no script 'nope' \(known: demo\)"):
        await ask(demo, user("x"), model="scripted/nope")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("{ error = 'transient', times = 2, after = 7 }", LlmTransient),
        ("{ error = 'throttled', times = 2, after = 7 }", LlmThrottled),
        ("{ error = 'unknown', times = 2 }", LlmUnknownOutcome),
        ("{ error = 'permanent', times = 2 }", LlmPermanent),
    ],
)
async def test_a_rule_fails_as_often_as_it_says_for_each_call_and_then_answers(
    fault: str, error: type[Exception]
) -> None:
    client = scripted(f"[[scripts.s.rules]]\nname = 'r'\nreply = 'done'\nfail = {fault}\n")
    for call_id in ("call-1", "call-2"):
        for _ in range(2):
            with pytest.raises(error) as caught:
                await ask(client, user("x"), model="scripted/s", call_id=call_id)
            assert getattr(caught.value, "after", 7.0) == 7.0
        assert (await ask(client, user("x"), model="scripted/s", call_id=call_id)).message.text == "done"


async def test_a_rule_that_only_fails_gives_way_to_the_next_one() -> None:
    client = scripted(
        "[[scripts.s.rules]]\nname = 'down'\nfail = { error = 'transient' }\n"
        "[[scripts.s.rules]]\nname = 'up'\nreply = 'here'\n"
    )
    with pytest.raises(LlmTransient, match="rule 'down'"):
        await ask(client, user("x"), model="scripted/s")
    assert (await ask(client, user("x"), model="scripted/s")).message.text == "here"


async def test_every_call_made_is_one_line_of_the_call_log(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        "[[scripts.s.rules]]\nname = 'r'\nreply = 'done'\nfail = { error = 'transient' }\n", encoding="utf-8"
    )
    log = tmp_path / "calls.jsonl"
    client = open_scripted(Settings(scripted=ScriptedSettings(rules=rules, call_log=log)))
    with pytest.raises(LlmTransient):
        await ask(client, user("x"), model="scripted/s")
    await ask(client, user("x"), model="scripted/s")
    first = await ask(client, user("1+1"), call_id="call-2")
    await ask(client, user("1+1"), first.message, results("value: 2"), call_id="call-3")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(line["call_id"], line["script"], line["step"], line["outcome"]) for line in lines] == [
        ("call-1", "s", 1, "transient"),
        ("call-1", "s", 1, "answered"),
        ("call-2", "demo", 1, "answered"),
        ("call-3", "demo", 2, "answered"),
    ]


async def test_a_streamed_reply_is_the_reply_in_pieces(demo: ScriptedClient) -> None:
    pieces = [item async for item in demo.stream(request(user("hello")), call_id="c", deadline=None)]
    whole = pieces.pop()
    assert isinstance(whole, LlmResponse)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == whole.message.text


async def test_usage_counts_words(demo: ScriptedClient) -> None:
    reply = await ask(demo, user("one two three"))
    assert reply.usage.input_tokens == await demo.count_tokens(request(user("one two three"))) == 3
