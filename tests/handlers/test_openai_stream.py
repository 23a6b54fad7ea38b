"""The OpenAI adapter against a local server: replies that come in pieces, and streams that break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from nodes.openai_api import KEY, Server, chunk, error, request, serve, sse

from rockbot.events import LlmResponse, TextPart, ThinkingPart
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmUnknownOutcome, TextDelta
from rockbot.settings import OpenAiSettings
from rockbot_handlers.llm.openai import OpenAiClient, open_openai


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[OpenAiClient]:
    client = open_openai("openai", OpenAiSettings(api_key=KEY, base_url=f"{server.url}/v1", timeout_seconds=60))
    yield client
    await client.close()


async def test_a_streamed_reply_comes_in_pieces_and_then_whole(server: Server, client: OpenAiClient) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    pieces = [chunk(reasoning_content="h"), chunk(reasoning_content="m"), chunk(content="Hel"), chunk(content="lo")]
    server.replies = [sse(*pieces, chunk("stop"), chunk(usage=usage))]
    items = [item async for item in client.stream(request(), call_id="c", deadline=None)]
    assert items[:-1] == [TextDelta("Hel"), TextDelta("lo")]
    whole = items[-1]
    assert isinstance(whole, LlmResponse)
    assert whole.message.parts == (
        ThinkingPart(provider="openai", data={"reasoning_content": "hm"}),
        TextPart(text="Hello"),
    )
    assert (whole.stop_reason, whole.usage.output_tokens, whole.model) == ("end_turn", 9, "openai/gpt-test-1")
    assert server.received[0].body["stream_options"] == {"include_usage": True}


async def test_streamed_calls_are_told_apart_with_and_without_an_index(server: Server, client: OpenAiClient) -> None:
    def part(index: int | None, identity: str | None, name: str | None, written: str) -> dict[str, Any]:
        known = {"index": index, "id": identity}
        return {**{k: v for k, v in known.items() if v is not None}, "function": {"name": name, "arguments": written}}

    with_index = [part(0, "a", "add", ""), part(1, "b", "add", '{"n"'), part(0, None, None, '{"n": 1}')]
    with_index.append(part(1, None, None, ": 2}"))
    without = [part(None, "a", "add", '{"n"'), part(None, None, None, ": 1}"), part(None, "b", "add", '{"n": 2}')]
    for parts in (with_index, without):
        server.replies = [sse(*(chunk(tool_calls=[each]) for each in parts), chunk("tool_calls"))]
        whole = [item async for item in client.stream(request(), call_id="c", deadline=None)][-1]
        assert isinstance(whole, LlmResponse)
        assert [(made.call_id, made.arguments) for made in whole.message.tool_calls] == [
            ("a", {"n": 1}),
            ("b", {"n": 2}),
        ]


@pytest.mark.parametrize("headers", [{"content-length": "100000"}, {}])
async def test_a_stream_that_is_cut_leaves_the_outcome_unknown(
    server: Server, client: OpenAiClient, headers: dict[str, str]
) -> None:
    reply = sse(chunk(content="Hel"), end="")
    reply.headers |= headers
    server.replies = [reply]
    items: list[object] = []
    with pytest.raises(LlmUnknownOutcome, match="ended before"):
        async for item in client.stream(request(), call_id="c", deadline=None):
            items.append(item)  # noqa: PERF401 -- what came before the error counts
    assert items == [TextDelta("Hel")]


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (error("slow down", code="rate_limit_exceeded"), LlmThrottled),
        (error("slow down", code=429), LlmThrottled),
        (error("no such thing", kind="invalid_request_error"), LlmPermanent),
        (error("broke", kind="server_error"), LlmUnknownOutcome),
    ],
)
async def test_an_error_inside_a_stream_is_read_by_what_it_says(
    server: Server, client: OpenAiClient, failed: dict[str, Any], expected: type[LlmError]
) -> None:
    server.replies = [sse(chunk(content="Hel"), failed)]
    with pytest.raises(expected):
        async for _ in client.stream(request(), call_id="c", deadline=None):
            pass
