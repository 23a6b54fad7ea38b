"""The toolset `scripts`: from tool call to script run and back, without anything kept in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rockbot import topics
from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.errors import PermanentFailure, Unhandled
from rockbot.events import Event, FilePart, StepExpired, StepStalled, TextPart, ToolInvoke, ToolResult, text_of
from rockbot.plugins import Services
from rockbot.policies import Policy
from rockbot_handlers.scripts.events import ScriptInvoke, ScriptResult
from rockbot_handlers.scripts.plugin import plugin
from rockbot_handlers.scripts.rendering import render
from rockbot_handlers.scripts.specs import MAX_CHARS
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_scripts import contract

INVOKE = "tool.invoke.scripts"
RESULT = "tool.result.scripts"


@pytest.fixture
def chain(make_services: Callable[..., Services], chain_of: Callable[..., Chain]) -> Chain:
    return chain_of(make_services(), plugin)


def invoke(tool: str = "run_python", **arguments: Any) -> ToolInvoke:
    return ToolInvoke(tool=tool, arguments=arguments, call_id="call-1")


def sent(context: Context) -> MessageEnvelope:
    (emission,) = context.emissions
    return emission.envelope


def result_in(envelope: MessageEnvelope) -> ToolResult:
    assert envelope.type == ToolResult.type_name
    return ToolResult.model_validate_json(envelope.body)


async def there_and_back(chain: Chain, make_context: Any, answer: Event, **options: Any) -> MessageEnvelope:
    """What comes of a call whose run is answered with `answer`."""
    there = make_context(invoke(code="1"), INVOKE, **options)
    await chain.run(invoke(code="1"), there)
    address = sent(there).return_address
    assert address is not None
    back = make_context(answer, address.topic, answer_to=(address.topic, address.token), message_id="the-result")
    await chain.run(answer, back)
    return sent(back)


@pytest.mark.parametrize(("tool", "language"), [("run_python", "python"), ("run_javascript", "javascript")])
async def test_a_tool_call_becomes_a_script_run(chain: Chain, make_context: Any, tool: str, language: str) -> None:
    event = invoke(tool, code="print(input())", input="hello")
    context = make_context(event, INVOKE)
    await chain.run(event, context)
    envelope = sent(context)
    assert (envelope.topic, envelope.type) == (f"script.invoke.{language}", "rockbot.script.invoke")
    got = contract.ScriptInvoke.model_validate_json(envelope.body)
    assert (got.language, got.code, got.input, got.limits) == (language, "print(input())", "hello", None)
    assert envelope.return_address is not None
    assert envelope.return_address.topic == RESULT


async def test_a_redelivered_tool_call_asks_for_the_same_run(chain: Chain, make_context: Any) -> None:
    messages = []
    for _ in range(2):
        context = make_context(invoke(code="1"), INVOKE)
        await chain.run(invoke(code="1"), context)
        messages.append(sent(context))
    assert messages[0] == messages[1]


async def test_the_result_goes_to_whoever_made_the_call(chain: Chain, make_context: Any) -> None:
    run = contract.ScriptResult(status="ok", value="84", stdout="hi\n")
    answer = ScriptResult.model_validate_json(run.model_dump_json())
    envelope = await there_and_back(chain, make_context, answer, answer_to=("agent.step.b", "token of b"))
    result = result_in(envelope)
    assert (result.call_id, result.tool, result.is_error) == ("call-1", "run_python", False)
    assert text_of(result.parts) == "value: 84\nstdout:\nhi"
    assert envelope.return_address is not None
    assert (envelope.topic, envelope.return_address.token) == ("agent.step.b", "token of b")


@pytest.mark.parametrize(("seconds", "expected"), [(None, 60), (10, 10), (3600, 60)])
async def test_a_run_is_due_when_the_tool_or_the_task_is(
    chain: Chain, make_context: Any, clock: FakeClock, seconds: float | None, expected: float
) -> None:
    context = make_context(invoke(code="1"), INVOKE, seconds=seconds)
    await chain.run(invoke(code="1"), context)
    assert sent(context).deadline_ms == clock.now_ms() + expected * 1000


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (invoke(), "code: Field required"),
        (invoke(code=""), "code: String should have at least 1 character"),
        (invoke(code=5), "code: Input should be a valid string"),
        (invoke(code="1", inputs="x"), "inputs: Extra inputs are not permitted"),
        (invoke("run_perl", code="1"), "no tool 'run_perl' here (there are: run_python, run_javascript)"),
    ],
)
async def test_a_call_that_cannot_be_made_is_told_to_the_model_at_once(
    chain: Chain, make_context: Any, event: ToolInvoke, said: str
) -> None:
    context = make_context(event, INVOKE)
    await chain.run(event, context)
    envelope = sent(context)
    result = result_in(envelope)
    assert result.is_error
    assert said in text_of(result.parts)
    assert (envelope.topic, result.call_id) == ("agent.step.assistant", "call-1")


async def test_a_call_that_cannot_be_answered_is_a_permanent_failure(chain: Chain, make_context: Any) -> None:
    with pytest.raises(PermanentFailure, match="without a return address"):
        await chain.run(invoke(code="1"), make_context(invoke(code="1"), INVOKE, answer_to=None))


async def test_other_toolsets_calls_are_passed_on(chain: Chain, make_context: Any) -> None:
    with pytest.raises(Unhandled):
        await chain.run(invoke(code="1"), make_context(invoke(code="1"), "tool.invoke.other"))


@pytest.mark.parametrize(
    "token",
    ["", "not json", "{}", "[]", json.dumps({"topic": "not a topic", "token": "t", "call_id": "c", "tool": "x"})],
)
async def test_a_token_that_is_not_ours_is_a_permanent_failure(chain: Chain, make_context: Any, token: str) -> None:
    result = ScriptResult(status="ok")
    with pytest.raises(PermanentFailure, match="return token"):
        await chain.run(result, make_context(result, RESULT, answer_to=(RESULT, token)))


async def test_a_result_without_a_token_is_a_permanent_failure(chain: Chain, make_context: Any) -> None:
    result = ScriptResult(status="ok")
    with pytest.raises(PermanentFailure, match="return token"):
        await chain.run(result, make_context(result, RESULT, answer_to=None))


async def test_a_stalled_run_is_told_to_the_turn(chain: Chain, make_context: Any) -> None:
    stalled = StepStalled(message_id="m", queue="scripts.python", reason="no sandbox")
    envelope = await there_and_back(chain, make_context, stalled)
    assert StepStalled.model_validate_json(envelope.body) == stalled
    assert envelope.type == StepStalled.type_name
    assert envelope.return_address is not None
    assert (envelope.topic, envelope.return_address.token) == ("agent.step.assistant", "opaque")


async def test_a_run_that_expired_is_a_failed_tool_result(chain: Chain, make_context: Any) -> None:
    envelope = await there_and_back(chain, make_context, StepExpired(message_id="m"))
    result = result_in(envelope)
    assert result.is_error
    assert "not run within 60 s" in text_of(result.parts)


@pytest.mark.parametrize("event", [StepStalled(message_id="m", queue="q", reason="r"), StepExpired(message_id="m")])
async def test_other_steps_news_is_passed_on(chain: Chain, make_context: Any, event: Event) -> None:
    with pytest.raises(Unhandled):
        await chain.run(event, make_context(event, "agent.step.assistant"))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ScriptResult(status="ok"), "The script ran, printed nothing and ended without a value."),
        (ScriptResult(status="ok", value="a\nb"), "value:\na\nb"),
        (ScriptResult(status="ok", stdout="x\n", stderr="w\n"), "stdout:\nx\nstderr:\nw"),
        (ScriptResult(status="ok", exit_code=3), "exit code: 3"),
        (ScriptResult(status="timeout", wall_ms=5000), "timeout: timed out after 5 s"),
        (
            ScriptResult(status="timeout", message="The script timed out after 2.5 s.", stdout="so far"),
            "timeout: The script timed out after 2.5 s.\nstdout:\nso far",
        ),
        (ScriptResult(status="oom"), "oom: the script needed more memory than its limit"),
        (
            ScriptResult(status="error", message="ZeroDivisionError: division by zero", stderr="Traceback ..."),
            "error: ZeroDivisionError: division by zero\nstderr:\nTraceback ...",
        ),
        (
            ScriptResult(status="ok", stdout="x", truncated=True),
            "stdout:\nx\n(the sandbox cut the output at its own limit)",
        ),
    ],
)
def test_a_result_is_rendered_with_labels_and_limits(result: ScriptResult, text: str) -> None:
    assert render(result) == text


@pytest.mark.parametrize("status", [status for status in contract.ScriptStatus.__args__ if status != "ok"])
async def test_every_status_but_ok_is_an_error_for_the_model(chain: Chain, make_context: Any, status: Any) -> None:
    result = result_in(await there_and_back(chain, make_context, ScriptResult(status=status)))
    assert result.is_error
    assert text_of(result.parts).startswith(f"{status}: ")


async def test_a_long_output_is_cut_with_an_exact_marker_and_can_be_read_whole(
    make_services: Callable[..., Services], chain_of: Callable[..., Chain], make_context: Any
) -> None:
    services = make_services()
    answer = ScriptResult(status="ok", stdout="a" * 100_000)
    text, file = result_in(await there_and_back(chain_of(services, plugin), make_context, answer)).parts
    assert isinstance(text, TextPart)
    assert isinstance(file, FilePart)
    assert len(text.text) <= MAX_CHARS
    head, _, rest = text.text.partition("\n[truncated, ")
    omitted, _, tail = rest.partition(" chars omitted]\n")
    assert len(head) + len(tail) + int(omitted) == len("stdout:\n") + 100_000
    whole = await services.artifacts.get(file.uri.removeprefix("artifact:"))
    assert whole.decode() == "stdout:\n" + "a" * 100_000


async def test_a_run_that_policy_denies_is_not_asked_for(chain: Chain, make_context: Any) -> None:
    policy = Policy.model_validate({"rules": [{"tool": "run_*", "then": "deny"}]})
    event = invoke(code="1").model_copy(update={"policy": policy})
    context = make_context(event, INVOKE)
    await chain.run(event, context)
    result = result_in(sent(context))
    assert (result.is_error, text_of(result.parts)) == (
        True,
        "the tool was not called, policy denies it: the agent's policy says so",
    )


@pytest.mark.parametrize(
    ("event", "model"), [(ScriptInvoke, contract.ScriptInvoke), (ScriptResult, contract.ScriptResult)]
)
def test_the_events_are_the_services_contract(event: type[Event], model: Any) -> None:
    assert event.type_name == model.type_name
    assert {name: (field.annotation, field.default) for name, field in event.model_fields.items()} == {
        name: (field.annotation, field.default) for name, field in model.model_fields.items()
    }


def test_the_plugin_offers_two_tools_and_waits_for_the_service(make_services: Callable[..., Services]) -> None:
    added = plugin(make_services())
    assert [(tool.name, tool.toolset, tool.input_schema["required"]) for tool in added.tools] == [
        ("run_python", "scripts", ["code"]),
        ("run_javascript", "scripts", ["code"]),
    ]
    (subscription,) = added.subscriptions
    assert isinstance(subscription, WorkSubscription)
    assert (subscription.name, subscription.patterns) == ("tool.scripts", (INVOKE, RESULT))
    assert [(queue.name, queue.patterns) for queue in added.addressed] == [
        ("scripts.python", (topics.script_invoke("python"),)),
        ("scripts.javascript", (topics.script_invoke("javascript"),)),
    ]


@pytest.mark.parametrize("word", ["network", "files", "limit", "Print"])
def test_models_are_told_what_the_sandbox_is(make_services: Callable[..., Services], word: str) -> None:
    assert all(word in tool.description for tool in plugin(make_services()).tools)
