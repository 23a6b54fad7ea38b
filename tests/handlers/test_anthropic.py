"""The Anthropic adapter against a local server: what is sent, what is read, and how a reply is streamed."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import pytest
from nodes.anthropic_api import KEY, Reply, Server, StrictCheck, error, events_of, message, request, serve, sse, text

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
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmUnknownOutcome, TextDelta
from rockbot.settings import AnthropicSettings
from rockbot_handlers.llm.anthropic import AnthropicClient, open_anthropic
from rockbot_handlers.llm.anthropic_access import AnthropicAccess


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AnthropicClient]:
    client = open_anthropic(AnthropicSettings(api_key=KEY, base_url=server.url, timeout_seconds=60))
    yield client
    await client.close()


async def call(client: AnthropicClient, req: LlmRequest | None = None, deadline: float | None = None) -> LlmResponse:
    return await client.complete(req or request(), call_id="c1", deadline=deadline)


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
    assert items[:-1] == [TextDelta("Hel"), TextDelta("lo")]
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


async def test_lines_of_several_text_blocks_stream_as_the_reply_has_them(
    server: Server, client: AnthropicClient
) -> None:
    whole = message(text("One."), {"type": "redacted_thinking", "data": "x"}, text(""), text("Two."))
    server.replies = [Reply(sse(*events_of(whole)))]
    items = [item async for item in client.stream(request(), call_id="c", deadline=None)]
    assert isinstance(items[-1], LlmResponse)
    assert "".join(item.text for item in items if isinstance(item, TextDelta)) == items[-1].message.text
    assert items[-1].message.text == "One.\n\nTwo."


async def test_what_is_not_known_of_a_block_streams_through(server: Server, client: AnthropicClient) -> None:
    block = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}, "caller": {"type": "direct"}}
    result = {"type": "some_new_result", "tool_use_id": "srv", "content": [{"deep": [1, None]}]}
    server.replies = [Reply(sse(*events_of(message(block, result, text("Found.")))))]
    items = [item async for item in client.stream(request(), call_id="c", deadline=None)]
    assert isinstance(items[-1], LlmResponse)
    assert [part.data for part in items[-1].message.parts if isinstance(part, ThinkingPart)] == [block, result]


@pytest.mark.parametrize(
    "words",
    [
        "prompt is too long: 212345 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000",
        "input length exceeds context window",
    ],
)
async def test_a_prompt_that_is_too_long_is_told_as_a_full_window(
    server: Server, client: AnthropicClient, words: str
) -> None:
    server.replies = [Reply(error("invalid_request_error", words), status=400)]
    assert (await call(client)).stop_reason == "context_window"


LONG = "x" * 5000


async def test_a_conversation_that_goes_on_is_cached_to_its_end_and_where_the_call_before_ended(
    server: Server, client: AnthropicClient
) -> None:
    server.replies = [Reply(message(text("ok"))) for _ in range(3)]
    asked = ToolCallPart(call_id="t1", tool="add", arguments={})
    history = (
        Message(role="user", parts=(TextPart(text=LONG),)),
        Message(role="assistant", parts=(asked,)),
        Message(role="user", parts=(ToolResultPart(call_id="t1", parts=(TextPart(text="1"),)),)),
        Message(role="assistant", parts=(TextPart(text="So 1."),)),
        Message(role="user", parts=(TextPart(text="And?"),)),
    )
    await call(client, request(*history[:1], tools=(TOOL,)))
    await call(client, request(*history, system=LONG, tools=(TOOL,)))
    await call(client, request(*history[:1]))
    first, grown, alone = (got.body for got in server.received)
    marked = [
        [at for at, it in enumerate(body["messages"]) if "cache_control" in it["content"][-1]]
        for body in (first, grown)
    ]
    assert marked == [[0], [2, 4]]
    assert "cache_control" in grown["system"][-1]
    # What is asked once and not gone on with is not worth the price of writing it down.
    assert "cache_control" not in json.dumps(alone)
    assert json.dumps(grown).count("cache_control") == 3


async def test_a_schema_is_told_to_the_api_where_it_can_be_and_to_the_model_where_not(
    server: Server, client: AnthropicClient
) -> None:
    server.check = StrictCheck()
    server.replies = [Reply(message(text("{}"))) for _ in range(3)]
    closed = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    words = AnthropicClient(AnthropicAccess(KEY, server.url, 60, native_output=False))
    await call(client, request(output_schema=closed))
    await call(client, request(output_schema={"type": "object", "additionalProperties": {"type": "string"}}))
    await call(words, request(output_schema=closed))
    await words.close()
    told, open_, in_words = (got.body for got in server.received)
    assert told["output_config"]["format"]["schema"]["properties"]["n"]["type"] == "integer"
    assert "system" not in told
    for body in (open_, in_words):
        assert "output_config" not in body
        assert "JSON schema" in body["system"][0]["text"]


async def test_a_connection_that_breaks_behind_the_end_of_a_reply_breaks_nothing(
    server: Server, client: AnthropicClient
) -> None:
    server.replies = [Reply(sse(START, *PIECES, *END), cut=True)]
    items = [item async for item in client.stream(request(), call_id="c", deadline=None)]
    assert isinstance(items[-1], LlmResponse)
    assert items[-1].message.text == "Hello"
