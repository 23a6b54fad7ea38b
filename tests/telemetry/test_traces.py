"""One trace from a stranger's task through model, tool and sandbox to the reply, over processes that share only messages."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections import Counter
from enum import EnumType

import pytest
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    use_span,
)
from telemetry.stage import STRANGER, Stage

from rockbot.telemetry import semconv
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.ports import Door

QUESTION = "What is 6 times 7?"


async def test_one_trace_goes_from_a_strangers_task_through_model_tool_and_sandbox_to_the_reply() -> None:
    async with Stage().running() as stage:
        envelope, answer = await stage.ask(QUESTION)
    assert "42" in answer.output
    spans = stage.spans()
    names = Counter(span.name for span in spans)
    assert {f"{span.context.trace_id:032x}" for span in spans} == {STRANGER.split("-")[1]}
    assert names["invoke_agent assistant"] == 1
    assert names["chat demo"] == 2
    assert names["execute_tool run_python"] == 1
    assert names["run_script python"] == 1
    assert names["process rockbot.scripts.python"] == 1
    assert names["publish (anonymous)"] == 1
    assert names["append state"] == names["process rockbot.agent.assistant"] == 4
    # The reply carries the trace on to whoever reads it.
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == STRANGER.split("-")[1]


async def test_every_span_hangs_under_the_one_that_caused_it_and_the_first_under_the_strangers() -> None:
    async with Stage().running() as stage:
        await stage.ask(QUESTION)
    spans = {span.context.span_id: span for span in stage.spans()}
    roots = [span for span in spans.values() if span.parent is None or span.parent.span_id not in spans]
    assert [span.name for span in roots] == ["process rockbot.agent.assistant"]
    assert roots[0].parent is not None
    assert f"{roots[0].parent.span_id:016x}" == STRANGER.split("-")[2]

    def above(name: str) -> list[str]:
        span = next(span for span in spans.values() if span.name == name)
        found = []
        while span.parent is not None and span.parent.span_id in spans:
            span = spans[span.parent.span_id]
            found.append(span.name)
        return found

    assert above("invoke_agent assistant") == ["process rockbot.agent.assistant"]
    assert above("chat demo")[:3] == [
        "process rockbot.llm.scripted.interactive",
        "publish rockbot.commands:llm.request.scripted.interactive",
        "invoke_agent assistant",
    ]
    assert above("run_script python")[:3] == [
        "process rockbot.scripts.python",
        "publish rockbot.commands:script.invoke.python",
        "execute_tool run_python",
    ]
    for span in spans.values():
        if span.kind is SpanKind.CONSUMER:
            assert span.parent is not None
            assert [link.context.span_id for link in span.links] == [span.parent.span_id]
            settled = [(event.name, event.attributes[semconv.ROCKBOT_OUTCOME]) for event in span.events]
            assert settled == [(semconv.SETTLE, "ack")]


async def test_a_model_call_is_one_client_span_that_says_what_it_took() -> None:
    async with Stage().running() as stage:
        await stage.ask("Hello.")
    calls = [span for span in stage.spans() if span.attributes.get(semconv.GEN_AI_OPERATION_NAME) == semconv.CHAT]
    (call,) = calls
    assert call.kind is SpanKind.CLIENT
    assert call.attributes[semconv.GEN_AI_PROVIDER_NAME] == "scripted"
    assert call.attributes[semconv.GEN_AI_REQUEST_MODEL] == "demo"
    assert call.attributes[semconv.GEN_AI_AGENT_NAME] == "assistant"
    assert call.attributes[semconv.GEN_AI_FINISH_REASONS] == ("end_turn",)
    assert call.attributes[semconv.GEN_AI_INPUT_TOKENS] > 0
    (turn,) = [span for span in stage.spans() if span.name == "invoke_agent assistant"]
    assert turn.end_time >= call.end_time
    assert turn.attributes[semconv.ROCKBOT_TURN_STATUS] == "completed"


async def test_a_task_without_a_trace_begins_one_that_its_reply_carries() -> None:
    async with Stage().running() as stage:
        first, _ = await stage.ask("Hello.", traceparent=None)
        second, _ = await stage.ask("Hello again.", traceparent="no trace at all")
    traces = {span.context.trace_id for span in stage.spans()}
    assert len(traces) == 2
    assert {f"{trace:032x}" for trace in traces} == {
        (envelope.traceparent or "").split("-")[1] for envelope in (first, second)
    }


async def test_tasks_that_wait_for_each_other_in_one_conversation_stay_in_their_own_traces() -> None:
    async with Stage().running() as stage:
        contexts = {text: f"00-{number:032x}-{number:016x}-01" for number, text in enumerate(("Hello.", QUESTION), 1)}
        for text, context in contexts.items():
            await stage.tell(stage.task(text, traceparent=context, conversation_id="c"))
        async with asyncio.timeout(60):
            replies = [(await stage.answers.get())[0] for _ in contexts]
    assert sorted((reply.traceparent or "").split("-")[1] for reply in replies) == [f"{n:032x}" for n in (1, 2)]
    chats = Counter(span.context.trace_id for span in stage.spans() if span.name == "chat demo")
    assert chats == {1: 1, 2: 2}


async def test_messages_that_are_sent_together_and_do_not_arrive_are_failed_spans() -> None:
    async with Stage().running() as stage:
        messages = [
            MessageEnvelope(topic=f"nobody.{number}", body=b"{}", message_id=str(number), type="t") for number in (1, 2)
        ]
        with pytest.raises(Unroutable):
            await stage.scripts_bus.publisher.publish_many(messages)
    spans = [span for span in stage.spans() if "nobody" in span.name]
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR] * 2
    assert {span.attributes[semconv.ERROR_TYPE] for span in spans} == {"Unroutable"}


def test_the_names_are_those_of_the_conventions() -> None:
    known: set[str] = set()
    for page in ("db", "error", "exception", "gen_ai", "messaging"):
        module = importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{page}_attributes")
        known |= {value for value in vars(module).values() if isinstance(value, str)}
        known |= {member.value for value in vars(module).values() if isinstance(value, EnumType) for member in value}
    ours = {name: value for name, value in vars(semconv).items() if name.isupper() and not name.startswith("ROCKBOT_")}
    newer = {name for name, value in ours.items() if value not in known}
    # Words of conventions that the installed package does not list yet, or has moved elsewhere.
    assert newer <= {"EXCEPTION", "GEN_AI_CACHE_WRITE_TOKENS"}


async def test_what_the_stranger_does_not_record_is_not_recorded_and_goes_on_all_the_same() -> None:
    async with Stage().running() as stage:
        envelope, _ = await stage.ask("Hello.", traceparent=f"{STRANGER[:-2]}00")
    assert stage.spans() == []
    assert (envelope.traceparent or "").startswith(STRANGER[:35])


async def test_sample_ratio_says_which_part_of_the_traces_that_begin_here_is_recorded() -> None:
    async with Stage(telemetry={"sample_ratio": 0}).running() as stage:
        await stage.ask("Hello.", traceparent=None)
        assert stage.spans() == []
        await stage.ask("Hello again.")
        assert stage.spans() != []


async def test_a_message_that_dies_is_a_failed_span() -> None:
    async with Stage().running() as stage:
        broken = MessageEnvelope(topic="agent.task.assistant", body=b"{", message_id="broken", type="")
        await stage.stranger.publisher.publish(broken, door=Door.PUBLIC)
        async with asyncio.timeout(60):
            while not await stage.stranger.dead_letters.letters("agent.assistant"):
                await asyncio.sleep(0)
    (span,) = stage.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert [event.attributes for event in span.events] == [{semconv.ROCKBOT_OUTCOME: "dead_letter"}]


@pytest.mark.parametrize("section", ["", "metrics = 'off'"])
def test_switched_off_nothing_of_opentelemetry_is_imported(section: str) -> None:
    program = (
        "import sys\n"
        "from rockbot.processes import compose_host\n"
        "from rockbot.settings import Settings\n"
        f"import tomllib; given = tomllib.loads({section!r})\n"
        "host = compose_host(Settings(telemetry=given, state_url='memory://', model='scripted/demo')); host.host()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def test_what_a_handler_sets_on_opentelemetrys_current_span_is_on_ours() -> None:
    stage = Stage()
    assert stage.batches is not None
    with stage.tracing.span("outer", {}):
        current = get_current_span()
        current.set_attribute("shelf", 7)
        current.set_attributes({"boxes": 12})
        current.add_event("looked", {"found": True})
        current.record_exception(KeyError("no such box"))
        current.add_link(SpanContext(1, 2, is_remote=True))
        current.add_link(SpanContext(0, 0, is_remote=True))
        current.set_status(StatusCode.ERROR, "empty")
        current.set_status(StatusCode.UNSET)
        current.update_name("look")
        assert current.is_recording()
        with stage.tracing.span("inner", {}):
            pass
    assert not current.is_recording()
    current.end()
    inner, span = stage.spans()
    stage.batches.close()
    assert span.name == "look"
    assert span.context == current.get_span_context()
    assert span.attributes == {"shelf": 7, "boxes": 12}
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("looked", {"found": True}),
        ("exception", {"exception.type": "KeyError", "exception.message": "'no such box'"}),
    ]
    assert [link.context.span_id for link in span.links] == [2]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "empty")
    assert inner.parent.span_id == span.context.span_id


async def test_a_span_hangs_under_one_that_another_library_made_current() -> None:
    stage = Stage()
    assert stage.batches is not None
    theirs = NonRecordingSpan(SpanContext(5, 6, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    with use_span(theirs), stage.tracing.span("ours", {}):
        pass
    (span,) = stage.spans()
    stage.batches.close()
    assert (span.context.trace_id, span.parent.span_id, span.parent.is_remote) == (5, 6, False)
