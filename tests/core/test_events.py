"""Events on the wire, and the registry that reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, ClassVar, get_args

import pytest
from core.links import Ping
from hypothesis import example, given
from hypothesis import strategies as st

from rockbot.events import (
    HOST_EVENTS,
    AgentResponse,
    AgentStatus,
    AgentTask,
    ErrorInfo,
    Event,
    EventRegistry,
    FilePart,
    ImagePart,
    InvalidEvent,
    JsonPart,
    LlmDelta,
    LlmRequest,
    LlmResponse,
    Message,
    StepExpired,
    StepStalled,
    TextPart,
    ThinkingPart,
    TimerDue,
    ToolCallPart,
    ToolInvoke,
    ToolResult,
    ToolResultPart,
    ToolSpec,
    UnknownType,
    Usage,
)
from rockbot.events.models import StopReason
from rockbot_messaging.ports import Door
from rockbot_messaging.topics import TopicPattern, check_topic

REGISTRY = EventRegistry(HOST_EVENTS)

TEXT = st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CONTENT = st.one_of(
    st.builds(TextPart, text=TEXT),
    st.builds(ImagePart, media_type=TEXT, data=st.none() | TEXT, url=st.none() | TEXT),
    st.builds(FilePart, uri=TEXT, size=st.none() | st.integers(0, 2**40), sha256=st.none() | TEXT),
    st.builds(JsonPart, data=ANYTHING),
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant"]),
    parts=st.lists(
        CONTENT
        | st.builds(ThinkingPart, provider=TEXT, data=st.dictionaries(TEXT, ANYTHING, max_size=2))
        | st.builds(ToolCallPart, call_id=TEXT, tool=TEXT, arguments=st.dictionaries(TEXT, ANYTHING, max_size=2))
        | st.builds(
            ToolResultPart, call_id=TEXT, parts=st.lists(CONTENT, max_size=2).map(tuple), is_error=st.booleans()
        ),
        max_size=3,
    ).map(tuple),
)
SPEC = ToolSpec(name="add", description="adds", input_schema={"type": "object", "default": None}, toolset="desk")
EVENTS = st.one_of(
    st.builds(
        AgentTask,
        input=st.text(min_size=1, max_size=20) | st.lists(CONTENT, min_size=1, max_size=3).map(tuple),
        conversation_id=st.none() | st.text(min_size=1, max_size=20),
        timeout_seconds=st.none() | st.floats(0.001, 1000),
    ),
    st.builds(
        LlmRequest, model=TEXT, system=TEXT, messages=st.lists(MESSAGES, max_size=3).map(tuple), tools=st.just((SPEC,))
    ),
    st.builds(
        LlmResponse,
        message=MESSAGES,
        stop_reason=st.sampled_from(get_args(StopReason)),
        usage=st.just(Usage(input_tokens=3)),
    ),
    st.builds(
        LlmDelta,
        task_id=TEXT,
        conversation_id=TEXT,
        call_id=TEXT,
        attempt=st.integers(0, 2**50),
        sequence=st.integers(0, 9),
        offset=st.integers(0, 9),
        text=TEXT,
        reset=st.booleans(),
        done=st.booleans(),
    ),
    st.builds(ToolInvoke, tool=TEXT, arguments=st.dictionaries(TEXT, ANYTHING, max_size=3), call_id=TEXT),
    st.builds(
        ToolResult, call_id=TEXT, tool=TEXT, parts=st.lists(CONTENT, max_size=3).map(tuple), is_error=st.booleans()
    ),
    st.builds(
        AgentResponse,
        task_id=TEXT,
        conversation_id=TEXT,
        agent=TEXT,
        status=st.sampled_from(["completed", "failed", "canceled", "expired"]),
        error=st.none() | st.builds(ErrorInfo, code=TEXT, message=TEXT),
        parts=st.lists(CONTENT, max_size=2).map(tuple),
    ),
    st.builds(
        AgentStatus, task_id=TEXT, conversation_id=TEXT, agent=TEXT, kind=st.just("stalled"), step=st.integers(0, 9)
    ),
    st.builds(StepStalled, message_id=TEXT, queue=TEXT, reason=TEXT),
    st.builds(StepExpired, message_id=TEXT),
    st.builds(TimerDue, timer_id=TEXT, purpose=TEXT, due_ms=st.integers(0, 2**50)),
)


@given(EVENTS)
def test_every_event_survives_the_wire(event: Event) -> None:
    assert REGISTRY.decode(type(event), event.to_body()) == event


BROKEN = st.text(st.characters(categories=["L", "Cs"]), max_size=5)


@given(BROKEN, BROKEN, st.dictionaries(BROKEN, st.lists(BROKEN, max_size=2), max_size=3))
@example("\ud83d\ude00", "\ud800", {"\udfff": ["a\ud800"]})
def test_every_body_is_valid_utf_8_whatever_the_texts_are(text: str, name: str, data: dict[str, list[str]]) -> None:
    parts = (TextPart(text=text), JsonPart(data=[data, None, 1.5, float("inf")]))
    event = ToolResult(call_id=name, tool="x", parts=parts, is_error=True)
    read = REGISTRY.decode(ToolResult, event.to_body())
    assert isinstance(read, ToolResult)
    assert read.call_id == name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert (read.tool, read.is_error) == ("x", True)
    assert read.parts[1].data[1:] == [None, 1.5, None]  # type: ignore[union-attr]


def test_a_pair_of_surrogates_is_the_character_it_means_and_a_lone_one_is_replaced() -> None:
    request = LlmRequest(model="m", messages=(Message(role="user", parts=(TextPart(text="\ud83d\ude00 \ud800"),)),))
    read = LlmRequest.model_validate_json(request.to_body())
    assert read.messages[0].text == "\U0001f600 \ufffd"


@given(EVENTS, TEXT, ANYTHING)
def test_unknown_fields_pass(event: Event, name: str, value: Any) -> None:
    fields = json.loads(event.to_body())
    if name not in type(event).model_fields:
        fields[name] = value
    assert REGISTRY.decode(type(event), json.dumps(fields).encode()) == event


def test_the_smallest_task_is_one_field() -> None:
    event = REGISTRY.decode(REGISTRY.resolve("", "agent.task.assistant"), b'{"input": "hi"}')
    assert isinstance(event, AgentTask)
    assert event.parts == (TextPart(text="hi"),)


def test_a_type_name_goes_before_the_topic_and_a_topic_implies_a_type() -> None:
    assert REGISTRY.resolve("rockbot.tool.result", "agent.task.x") is ToolResult
    assert REGISTRY.resolve("", "agent.task") is AgentTask
    assert REGISTRY.resolve("", "tool.invoke.desk") is ToolInvoke
    for unknown in ("agent.task.a.b", "agent.step.x", "nowhere"):
        with pytest.raises(UnknownType, match="names no type"):
            REGISTRY.resolve("", unknown)
    with pytest.raises(UnknownType, match=r"'rockbot\.tool\.resul'"):
        REGISTRY.resolve("rockbot.tool.resul", "agent.task")


def test_no_two_events_share_a_name_and_the_same_one_twice_is_one() -> None:
    class Rival(Event):
        type_name: ClassVar[str] = "test.ping"

    assert len(list(EventRegistry([Ping, Ping]))) == 1
    with pytest.raises(ValueError, match=r"'test\.ping': Ping, .*Rival"):
        EventRegistry([Ping, Rival])
    assert Ping in EventRegistry([Ping])
    assert Rival not in EventRegistry([Ping])


def test_type_names_are_ours_and_topics_of_different_events_do_not_overlap() -> None:
    seen: dict[str, type[Event]] = {}
    for event in HOST_EVENTS:
        assert event.type_name.startswith("rockbot.")
        assert event.door in Door
        for pattern in event.topics:
            topic = check_topic(pattern.replace("*", "x"))
            assert all(owner is event or not TopicPattern(other).matches(topic) for other, owner in seen.items())
            seen[pattern] = event


SECRET = "the-private-text"


@pytest.mark.parametrize(
    "body",
    [
        f'{{"input": [{{"kind": "{SECRET}"}}]}}',
        f'{{"input": [{{"kind": "text", "text": ["{SECRET}"]}}]}}',
        f'{{"input": {{"a": "{SECRET}"}}}}',
        f'{{"input": "x", "timeout_seconds": "{SECRET}"}}',
        f'"{SECRET}"',
        f'{{"input": "{SECRET}',
        f"{SECRET}",
    ],
)
def test_errors_quote_no_bodies(body: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        REGISTRY.decode(AgentTask, body.encode())
    assert SECRET not in str(caught.value)
    assert "rockbot.agent.task" in str(caught.value)


def test_errors_name_five_fields_at_most_and_stay_short() -> None:
    body = json.dumps({"input": [{"kind": "text"}] * 20}).encode()
    with pytest.raises(InvalidEvent, match="and 16 more") as caught:
        REGISTRY.decode(AgentTask, body)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("value", [0, -1, 1e12, "NaN"])
def test_a_tasks_timeout_has_bounds(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="timeout_seconds"):
        REGISTRY.decode(AgentTask, json.dumps({"input": "x", "timeout_seconds": value}).encode())


@pytest.mark.parametrize("body", ['{"input": ""}', '{"input": []}', "{}"])
def test_a_task_without_input_is_none(body: str) -> None:
    with pytest.raises(InvalidEvent, match="input"):
        REGISTRY.decode(AgentTask, body.encode())


def test_events_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        AgentTask(input="x").input = "y"  # type: ignore[misc]


def test_importing_the_events_loads_nothing_heavier_than_pydantic() -> None:
    code = "import sys, rockbot.events; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {
        "aio_pika", "aiormq", "pamqp", "anthropic", "openai", "wasmtime", "fastapi", "starlette", "uvicorn", "httpx2",
        "typer", "rich", "dependency_injector", "pydantic_settings", "redis", "asyncpg", "kubernetes", "sqlite3",
        "asyncio", "rockbot_handlers", "rockbot_scripts",
    }  # fmt: skip
    assert not loaded & heavy
    assert "pydantic" in loaded
