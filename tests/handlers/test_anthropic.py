"""The Anthropic adapter against a local server that speaks the wire format: what is sent, what is read, what fails how."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from rockbot.errors import ConfigError
from rockbot.events import (
    FilePart,
    ImagePart,
    JsonPart,
    LlmRequest,
    LlmResponse,
    Message,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Usage,
)
from rockbot.llm import LlmDelta, LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.settings import AnthropicSettings
from rockbot_handlers.llm.anthropic import AnthropicClient, open_anthropic

KEY = "sk-test-0123456789-secret"


@dataclass
class Reply:
    """One answer of the server; `body` None cuts the connection, `hang` never answers."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Server:
    """An HTTP/1.1 server of a few lines that plays prepared replies in order."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.received: list[Received] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(head[0].split()[1], headers, json.loads(body)))
            reply = self.replies.pop(0)
            if reply.hang:
                await reader.read()
            elif reply.body is not None:
                is_text = isinstance(reply.body, str)
                data = (reply.body if is_text else json.dumps(reply.body)).encode()
                kind = "text/event-stream" if is_text and "event:" in reply.body else "application/json"
                lines = {"content-type": kind, "content-length": str(len(data)), "connection": "close", **reply.headers}
                text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                writer.write(f"HTTP/1.1 {reply.status} Reply\r\n{text}\r\n".encode() + data)
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield server
    listener.close()
    await listener.wait_closed()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AnthropicClient]:
    client = open_anthropic(AnthropicSettings(api_key=KEY, base_url=server.url, timeout_seconds=5))
    yield client
    await client.close()


def message(*content: dict[str, Any], stop: str = "end_turn", **usage: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-1",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 5, **usage},
    }


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def error(kind: str, words: str, **details: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": words, **({"details": details} if details else {})}}


def request(*messages: Message, **fields: Any) -> LlmRequest:
    given = messages or (Message(role="user", parts=(TextPart(text="hi"),)),)
    return LlmRequest(model="anthropic/claude-test", messages=given, **fields)


async def call(client: AnthropicClient, req: LlmRequest | None = None, deadline: float | None = None) -> LlmResponse:
    return await client.complete(req or request(), call_id="c1", deadline=deadline)


async def failure(client: AnthropicClient, **options: Any) -> LlmError:
    with pytest.raises(LlmError) as caught:
        await call(client, **options)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


async def test_a_text_reply_with_its_usage(server: Server, client: AnthropicClient) -> None:
    usage = {"cache_read_input_tokens": 7, "cache_creation_input_tokens": 11}
    server.replies = [Reply(message(text("Hello"), **usage))]
    response = await call(client, request(system="Be kind.", max_output_tokens=99))
    assert response == LlmResponse(
        message=Message(role="assistant", parts=(TextPart(text="Hello"),)),
        stop_reason="end_turn",
        model="anthropic/claude-test-1",
        usage=Usage(input_tokens=3, output_tokens=5, cache_read_tokens=7, cache_write_tokens=11),
    )
    (got,) = server.received
    assert got.path == "/v1/messages"
    assert KEY in got.headers.get("authorization", "") + got.headers.get("x-api-key", "")
    assert got.body == {
        "model": "claude-test",
        "max_tokens": 99,
        "system": [text("Be kind.")],
        "messages": [{"role": "user", "content": [text("hi")]}],
    }


async def test_a_long_reply_may_be_asked_for_without_streaming(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(message(text("long")))]
    await call(client, request(max_output_tokens=128_000))
    assert server.received[0].body["max_tokens"] == 128_000


TOOL = ToolSpec(name="add", description="Adds.", input_schema={"type": "object"}, toolset="math")


async def test_tools_are_offered_and_parallel_calls_come_back_in_order(server: Server, client: AnthropicClient) -> None:
    calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "add", "input": {"n": n, "none": None}} for n in (1, 2)]
    server.replies = [Reply(message(text("Adding."), *calls, stop="tool_use"))]
    response = await call(client, request(tools=(TOOL,)))
    assert response.stop_reason == "tool_use"
    assert response.message.tool_calls == tuple(
        ToolCallPart(call_id=f"toolu_{n}", tool="add", arguments={"n": n, "none": None}) for n in (1, 2)
    )
    assert LlmResponse.model_validate_json(response.to_body()) == response
    assert server.received[0].body["tools"] == [
        {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
    ]


async def test_all_results_of_a_reply_stand_together_at_the_head_of_one_user_message(
    server: Server, client: AnthropicClient
) -> None:
    server.replies = [Reply(message(text("3 and 7")))]
    asked = tuple(ToolCallPart(call_id=f"t{n}", tool="add", arguments={"n": n}) for n in (1, 2))
    failed = ToolResultPart(call_id="t2", parts=(TextPart(text="no"),), is_error=True)
    await call(
        client,
        request(
            Message(role="user", parts=(TextPart(text="add"),)),
            Message(role="assistant", parts=asked),
            Message(role="user", parts=(ToolResultPart(call_id="t1", parts=(JsonPart(data={"sum": 3}),)),)),
            Message(role="user", parts=(TextPart(text="and hurry"), failed)),
        ),
    )
    assert server.received[0].body["messages"] == [
        {"role": "user", "content": [text("add")]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": f"t{n}", "name": "add", "input": {"n": n}} for n in (1, 2)],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [text('{"sum": 3}')]},
                {"type": "tool_result", "tool_use_id": "t2", "content": [text("no")], "is_error": True},
                text("and hurry"),
            ],
        },
    ]


async def test_thinking_goes_back_exactly_as_it_came_and_only_to_its_provider(
    server: Server, client: AnthropicClient
) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "opaque"},
    ]
    server.replies = [Reply(message(*blocks, text("Yes"))), Reply(message(text("Still yes")))]
    first = await call(client)
    assert [part.kind for part in first.message.parts] == ["thinking", "thinking", "text"]
    foreign = ThinkingPart(provider="other", data={"secret": 1})
    stored = LlmResponse.model_validate_json(first.to_body()).message
    reply = Message(role="assistant", parts=(foreign, *stored.parts))
    await call(client, request(Message(role="user", parts=(TextPart(text="hi"),)), reply))
    assert server.received[1].body["messages"][1]["content"] == [*blocks, text("Yes")]


async def test_images_files_and_data_are_sent_and_empty_text_is_not(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(message(text("ok")))]
    data = base64.b64encode(b"png").decode()
    parts = (
        TextPart(text=" \n"),
        ImagePart(media_type="image/png", data=data),
        ImagePart(media_type="image/png", url="https://example.org/a.png"),
        FilePart(uri="artifact:1", name="a.pdf", media_type="application/pdf"),
    )
    await call(client, request(Message(role="user", parts=parts), Message(role="assistant", parts=())))
    (sent,) = server.received[0].body["messages"]
    assert sent["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        text("[file a.pdf (application/pdf) at artifact:1]"),
    ]


async def test_an_image_without_content_is_a_permanent_error(client: AnthropicClient) -> None:
    part = ImagePart(media_type="image/png")
    failed = await failure(client, req=request(Message(role="user", parts=(part,))))
    assert isinstance(failed, LlmPermanent)


async def test_long_system_and_tools_are_cached_and_short_ones_are_not(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(message(text("ok"))) for _ in range(3)]
    long = "x" * 5000
    await call(client, request(system=long, tools=(TOOL,)))
    await call(client, request(tools=(TOOL.model_copy(update={"description": long}),)))
    await call(client, request(system="short", tools=(TOOL,)))
    with_system, tools_only, short = (got.body for got in server.received)
    assert with_system["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in with_system["tools"][-1]
    assert tools_only["tools"][-1]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(short)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("end_turn", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "context_window"),
        ("pause_turn", "other"),
        ("something_new", "other"),
    ],
)
async def test_stop_reasons_are_told(server: Server, client: AnthropicClient, stop: str, expected: str) -> None:
    server.replies = [Reply(message(text("so far"), stop=stop))]
    assert (await call(client)).stop_reason == expected


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "model_context_window_exceeded"])
async def test_a_tool_call_that_may_be_cut_off_is_not_made(server: Server, client: AnthropicClient, stop: str) -> None:
    cut = {"type": "tool_use", "id": "t", "name": "add", "input": {}}
    server.replies = [Reply(message(text("I will"), cut, stop=stop))]
    assert (await call(client)).message == Message(role="assistant", parts=(TextPart(text="I will"),))


@pytest.mark.parametrize(
    ("status", "headers", "kind", "expected", "after"),
    [
        (429, {"retry-after": "17"}, "rate_limit_error", LlmThrottled, 17),
        (429, {"retry-after": "17", "retry-after-ms": "250"}, "rate_limit_error", LlmThrottled, 0.25),
        (429, {"retry-after": "600"}, "rate_limit_error", LlmThrottled, 600),
        (429, {"retry-after": "nan"}, "rate_limit_error", LlmThrottled, 5),
        (429, {}, "rate_limit_error", LlmThrottled, 5),
        (
            429,
            {"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"},
            "rate_limit_error",
            LlmThrottled,
            30,
        ),
        (429, {}, "billing_error", LlmPermanent, None),
        (529, {}, "overloaded_error", LlmThrottled, 5),
        (529, {"retry-after": "3"}, "overloaded_error", LlmThrottled, 3),
        (500, {}, "api_error", LlmTransient, None),
        (503, {"retry-after": "4"}, "api_error", LlmTransient, 4),
        (408, {}, "timeout_error", LlmTransient, None),
        (409, {}, "conflict_error", LlmTransient, None),
        (504, {}, "timeout_error", LlmUnknownOutcome, None),
        (400, {}, "invalid_request_error", LlmPermanent, None),
        (401, {}, "authentication_error", LlmPermanent, None),
        (403, {}, "permission_error", LlmPermanent, None),
        (404, {}, "not_found_error", LlmPermanent, None),
        (413, {}, "invalid_request_error", LlmPermanent, None),
    ],
)
async def test_an_error_status_becomes_one_of_four_errors(
    server: Server,
    client: AnthropicClient,
    status: int,
    headers: dict[str, str],
    kind: str,
    expected: type[LlmError],
    after: float | None,
) -> None:
    body = error(kind, f"what happened with {KEY}")
    server.replies = [Reply(body, status=status, headers={"request-id": "req_42", **headers})]
    failed = await failure(client)
    assert type(failed) is expected
    assert getattr(failed, "after", None) == after
    assert f"anthropic: {status} {kind}: what happened with *** (request req_42)" == str(failed)
    assert len(server.received) == 1


async def test_a_spend_limit_is_permanent(server: Server, client: AnthropicClient) -> None:
    body = error("rate_limit_error", "limit", error_code="contract_spend_limit_reached")
    server.replies = [Reply(body, status=429)]
    assert isinstance(await failure(client), LlmPermanent)


async def test_a_cut_connection_leaves_the_outcome_unknown(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(None)]
    failed = await failure(client)
    assert isinstance(failed, LlmUnknownOutcome)
    assert "connection ended" in str(failed)


async def test_an_answer_cut_in_the_middle_leaves_the_outcome_unknown(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(message(text("x")), headers={"content-length": "100000"})]
    assert isinstance(await failure(client), LlmUnknownOutcome)


async def test_no_answer_in_time_leaves_the_outcome_unknown(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(hang=True), Reply(hang=True)]
    impatient = AnthropicClient(KEY, base_url=server.url, timeout=0.05)
    for failed in (await failure(impatient), await failure(client, deadline=0.05)):
        assert isinstance(failed, LlmUnknownOutcome)
        assert "no answer in time" in str(failed)
    await impatient.close()


async def test_a_server_that_is_not_there_is_a_transient_error() -> None:
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    client = AnthropicClient(KEY, base_url=f"http://127.0.0.1:{port}", timeout=5)
    failed = await failure(client)
    assert isinstance(failed, LlmTransient)
    assert "could not connect" in str(failed)
    await client.close()


@pytest.mark.parametrize("body", [{"hello": "world"}, "<html>a proxy</html>", []])
async def test_an_answer_that_is_no_message_is_told_as_such(server: Server, client: AnthropicClient, body: Any) -> None:
    server.replies = [Reply(body)]
    failed = await failure(client)
    assert isinstance(failed, LlmUnknownOutcome)


async def test_cancelling_a_call_stays_a_cancellation(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(hang=True)]
    task = asyncio.create_task(call(client))
    async with asyncio.timeout(5):
        while not server.received:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_key_is_in_no_log_and_no_repr(
    server: Server, client: AnthropicClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [Reply(message(text("ok"))), Reply(error("authentication_error", "bad key"), status=401)]
    await call(client)
    await failure(client)
    assert len(caplog.records) > 0
    assert KEY not in caplog.text
    assert KEY not in repr(client)


async def test_key_and_address_come_from_the_environment_when_settings_have_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-the-environment\n")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    server.replies = [Reply(message(text("ok")))]
    client = open_anthropic(AnthropicSettings())
    await call(client)
    assert "from-the-environment" in str(server.received[0].headers)
    await client.close()


def test_settings_without_a_key_or_with_a_bad_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        open_anthropic(AnthropicSettings())
    with pytest.raises(ConfigError, match="base_url"):
        open_anthropic(AnthropicSettings(api_key=KEY, base_url="localhost:8000"))


def sse(*events: dict[str, Any]) -> str:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


START = {"type": "message_start", "message": {**message(), "stop_reason": None}}
PIECES = [
    {"type": "content_block_start", "index": 0, "content_block": text("")},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
]
END = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


async def test_a_streamed_reply_comes_in_pieces_and_then_whole(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(sse(START, *PIECES, *END))]
    items = [item async for item in client.stream(request(), call_id="c", deadline=None)]
    assert items[:-1] == [LlmDelta("Hel"), LlmDelta("lo")]
    whole = items[-1]
    assert isinstance(whole, LlmResponse)
    assert (whole.message.text, whole.stop_reason, whole.usage.output_tokens) == ("Hello", "end_turn", 9)
    assert server.received[0].body["stream"] is True


async def test_a_stream_that_is_cut_leaves_the_outcome_unknown(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(sse(START, *PIECES), headers={"content-length": "100000"})]
    with pytest.raises(LlmUnknownOutcome):
        async for _ in client.stream(request(), call_id="c", deadline=None):
            pass


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", LlmThrottled),
        ("invalid_request_error", LlmPermanent),
        ("api_error", LlmUnknownOutcome),
    ],
)
async def test_an_error_inside_a_stream_is_read_by_its_type(
    server: Server, client: AnthropicClient, kind: str, expected: type[LlmError]
) -> None:
    server.replies = [Reply(sse(START, *PIECES, error(kind, "later")))]
    with pytest.raises(expected):
        async for _ in client.stream(request(), call_id="c", deadline=None):
            pass


async def test_a_stream_that_is_refused_is_throttled(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply(error("rate_limit_error", "slow"), status=429, headers={"retry-after": "2"})]
    with pytest.raises(LlmThrottled) as caught:
        async for _ in client.stream(request(), call_id="c", deadline=None):
            pass
    assert caught.value.after == 2


async def test_tokens_are_counted_by_the_api(server: Server, client: AnthropicClient) -> None:
    server.replies = [Reply({"input_tokens": 123})]
    assert await client.count_tokens(request(system="s", tools=(TOOL,))) == 123
    assert server.received[0].path == "/v1/messages/count_tokens"
    assert "max_tokens" not in server.received[0].body
