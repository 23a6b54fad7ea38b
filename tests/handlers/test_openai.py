"""The OpenAI adapter against a local server: what is sent, what is read, and how a reply is streamed."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nodes.openai_api import KEY, Reply, Server, call, completion, request, serve

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
from rockbot.llm import LlmPermanent
from rockbot.settings import OpenAiSettings
from rockbot_handlers.llm.openai import OpenAiClient, open_openai

TOOL = ToolSpec(name="add", description="Adds.", input_schema={"type": "object"}, toolset="math")
HI = Message(role="user", parts=(TextPart(text="hi"),))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[OpenAiClient]:
    client = open_openai("openai", OpenAiSettings(api_key=KEY, base_url=f"{server.url}/v1", timeout_seconds=60))
    yield client
    await client.close()


async def ask(client: OpenAiClient, req: LlmRequest | None = None, call_id: str = "c1") -> LlmResponse:
    return await client.complete(req or request(), call_id=call_id, deadline=None)


async def ask_other(server: Server, req: LlmRequest | None = None, name: str = "mine", **options: Any) -> LlmResponse:
    """One call of another provider at the same server."""
    client = open_openai(name, OpenAiSettings(base_url=server.url, timeout_seconds=60, **options))
    try:
        return await ask(client, req)
    finally:
        await client.close()


async def test_a_text_reply_with_its_usage(server: Server, client: OpenAiClient) -> None:
    details = {"cached_tokens": 70, "cache_write_tokens": 10}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": details}
    server.replies = [Reply(completion("Hello", usage=usage))]
    response = await ask(client, request(system="Be kind.", max_output_tokens=99))
    assert response == LlmResponse(
        message=Message(role="assistant", parts=(TextPart(text="Hello"),)),
        stop_reason="end_turn",
        model="openai/gpt-test-1",
        usage=Usage(input_tokens=20, output_tokens=5, cache_read_tokens=70, cache_write_tokens=10),
    )
    (got,) = server.received
    assert got.path == "/v1/chat/completions"
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.body == {
        "model": "gpt-test",
        "max_completion_tokens": 99,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
    }


async def test_tools_are_offered_in_the_servers_form(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion("ok"))]
    await ask(client, request(tools=(TOOL,)))
    assert server.received[0].body["tools"] == [
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
    ]


async def test_each_result_is_a_message_of_its_own_right_after_the_calls(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion("3 and 7"))]
    asked = tuple(ToolCallPart(call_id=f"t{n}", tool="add", arguments={"n": n}) for n in (1, 2))
    failed = ToolResultPart(call_id="t2", parts=(TextPart(text="no"),), is_error=True)
    await ask(
        client,
        request(
            Message(role="user", parts=(TextPart(text="add"),)),
            Message(role="assistant", parts=(TextPart(text="Adding."), *asked)),
            Message(role="user", parts=(ToolResultPart(call_id="t1", parts=(JsonPart(data={"sum": 3}),)),)),
            Message(role="user", parts=(TextPart(text="and hurry"), failed)),
        ),
    )
    calls = [
        {"id": f"t{n}", "type": "function", "function": {"name": "add", "arguments": f'{{"n": {n}}}'}} for n in (1, 2)
    ]
    assert server.received[0].body["messages"] == [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "Adding.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "t1", "content": '{"sum": 3}'},
        {"role": "tool", "tool_call_id": "t2", "content": "error: no"},
        {"role": "user", "content": "and hurry"},
    ]


async def test_images_files_and_data_are_sent_and_empty_text_is_not(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion("ok"))]
    data = base64.b64encode(b"png").decode()
    parts = (
        TextPart(text=" \n"),
        ImagePart(media_type="image/png", data=data),
        ImagePart(media_type="image/png", url="https://example.org/a.png"),
        FilePart(uri="artifact:1", name="a.pdf", media_type="application/pdf"),
    )
    await ask(client, request(Message(role="user", parts=parts), Message(role="assistant", parts=())))
    (sent,) = server.received[0].body["messages"]
    assert sent["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "[file a.pdf (application/pdf) at artifact:1]"},
    ]


async def test_an_image_in_a_tool_result_follows_it(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion("ok"))]
    image = ImagePart(media_type="image/png", url="https://example.org/a.png")
    asked = Message(role="assistant", parts=(ToolCallPart(call_id="t1", tool="look", arguments={}),))
    result = ToolResultPart(call_id="t1", parts=(TextPart(text="seen"), image))
    await ask(client, request(HI, asked, Message(role="user", parts=(result,))))
    assert server.received[0].body["messages"][2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "seen"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "[image from tool call t1]"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
    ]


async def test_a_server_that_takes_no_images_gets_a_note(server: Server) -> None:
    server.replies = [Reply(completion("ok"))]
    image = ImagePart(media_type="image/png", url="https://example.org/a.png")
    await ask_other(server, request(Message(role="user", parts=(image,))), images=False)
    (sent,) = server.received[0].body["messages"]
    assert sent["content"] == "[image (image/png), which this model cannot see]"


async def test_an_image_without_content_is_a_permanent_error(client: OpenAiClient) -> None:
    with pytest.raises(LlmPermanent, match="neither data nor url"):
        await ask(client, request(Message(role="user", parts=(ImagePart(media_type="image/png"),))))


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ('{"n": 1', "no valid JSON"),
        ("n=1", "no valid JSON"),
        ('{"n": NaN}', "NaN is no JSON value"),
        ('{"n": "\\ud800"}', "no valid JSON"),
        ("[1]", "must be a JSON object, not list"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
async def test_malformed_arguments_are_a_problem_for_the_model_and_no_crash(
    server: Server, client: OpenAiClient, written: str, problem: str
) -> None:
    server.replies = [Reply(completion(None, call("a", "add", written), call("b", "add", '{"n": 2}')))]
    response = await ask(client)
    bad, good = response.message.tool_calls
    assert (bad.arguments, good.arguments, good.problem) == ({}, {"n": 2}, "")
    assert problem in bad.problem
    assert len(bad.problem) < 500
    assert LlmResponse.model_validate_json(response.to_body()) == response


@pytest.mark.parametrize("written", ["", " ", "{}", "null"])
async def test_no_arguments_are_no_problem(server: Server, client: OpenAiClient, written: str) -> None:
    server.replies = [Reply(completion(None, call("a", "add", written)))]
    (made,) = (await ask(client)).message.tool_calls
    assert (made.arguments, made.problem) == ({}, "")


async def test_arguments_that_are_an_object_already_are_taken(server: Server, client: OpenAiClient) -> None:
    made = call("a", "add", "")
    made["function"]["arguments"] = {"n": 1}
    server.replies = [Reply(completion(None, made))]
    assert (await ask(client)).message.tool_calls[0].arguments == {"n": 1}


async def test_calls_without_ids_of_their_own_get_stable_ones(server: Server, client: OpenAiClient) -> None:
    made = [call(None, "add", {"n": 1}), call("", "add", {"n": 2}), call("x", "add", {}), call("x", "add", {})]
    server.replies = [Reply(completion(None, *made)) for _ in range(3)]
    ids = [[part.call_id for part in (await ask(client, call_id=name)).message.tool_calls] for name in ("m", "m", "o")]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 4
    assert ids[0][2] == "x"
    assert not set(ids[0]) & set(ids[2]) - {"x"}


async def test_a_bare_reply_of_a_local_server_is_enough(server: Server) -> None:
    bare = {"choices": [{"message": {"content": "hey", "tool_calls": None}, "finish_reason": "stop"}]}
    server.replies = [Reply(bare)]
    response = await ask_other(server, request(model="mine/a/b"))
    assert (response.message.text, response.stop_reason, response.model) == ("hey", "end_turn", "mine/a/b")
    assert response.usage == Usage()
    assert "authorization" not in server.received[0].headers
    assert server.received[0].body["model"] == "a/b"
    assert server.received[0].body["max_tokens"] == 4096


async def test_content_in_parts_is_joined(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))]
    assert (await ask(client)).message.text == "ab"


async def test_deepseeks_count_of_cached_tokens_is_understood(server: Server) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}
    server.replies = [Reply(completion("ok", usage=usage))]
    response = await ask_other(server, name="deepseek", api_key=KEY)
    assert response.usage == Usage(input_tokens=2, output_tokens=1, cache_read_tokens=8)


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("tool_calls", "other"),
        ("something_new", "other"),
        (None, "other"),
    ],
)
async def test_stop_reasons_are_told(server: Server, client: OpenAiClient, finish: str | None, expected: str) -> None:
    server.replies = [Reply(completion("so far", stop=finish))]
    assert (await ask(client)).stop_reason == expected


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call"])
async def test_calls_mean_tool_use_whatever_the_server_says(server: Server, client: OpenAiClient, finish: str) -> None:
    server.replies = [Reply(completion(None, call("a", "add", {}), stop=finish))]
    assert (await ask(client)).stop_reason == "tool_use"


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_a_tool_call_that_may_be_cut_off_is_not_made(server: Server, client: OpenAiClient, finish: str) -> None:
    server.replies = [Reply(completion("I will", call("a", "add", '{"n": '), stop=finish))]
    assert (await ask(client)).message == Message(role="assistant", parts=(TextPart(text="I will"),))


async def test_a_refusal_is_a_refusal_in_the_models_words(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion(None, refusal="I will not."))]
    response = await ask(client)
    assert (response.stop_reason, response.message.text) == ("refusal", "I will not.")


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning_content": ""},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.encrypted", "data": "opaque"}]},
        {"extra_content": {"google": {"thought_signature": "sig=="}}},
    ],
)
async def test_reasoning_goes_back_exactly_as_it_came_and_only_to_its_provider(
    server: Server, fields: dict[str, Any]
) -> None:
    signed = call("a", "add", {"n": 1}, extra_content={"google": {"thought_signature": "call=="}})
    server.replies = [Reply(completion(None, signed, **fields)), Reply(completion("2")), Reply(completion("3"))]
    first = (await ask_other(server)).message
    assert [part.kind for part in first.parts] == ["thinking", "tool_call"]
    stored = Message.model_validate_json(first.model_dump_json())
    foreign = ThinkingPart(provider="other", data={"reasoning_content": "secret"})
    history = (
        HI,
        Message(role="assistant", parts=(foreign, *stored.parts)),
        Message(role="user", parts=(ToolResultPart(call_id="a", parts=(TextPart(text="1"),)),)),
    )
    await ask_other(server, request(*history))
    assert server.received[1].body["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [signed],
        **fields,
    }
    await ask_other(server, request(*history), name="other")
    (made,) = server.received[2].body["messages"][1].pop("tool_calls")
    assert "extra_content" not in made
    assert server.received[2].body["messages"][1] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "secret",
    }


async def test_a_server_that_wants_no_reasoning_back_gets_none(server: Server) -> None:
    server.replies = [Reply(completion("ok", reasoning="hm")), Reply(completion("ok"))]
    first = (await ask_other(server, name="groq", api_key=KEY)).message
    assert [part.kind for part in first.parts] == ["thinking", "text"]
    await ask_other(server, request(HI, first, HI), name="groq", api_key=KEY)
    assert server.received[1].body["messages"][1] == {"role": "assistant", "content": "ok"}


async def test_tokens_are_estimated_and_images_not_by_their_bytes(client: OpenAiClient) -> None:
    short = await client.count_tokens(request())
    long = await client.count_tokens(request(system="x" * 4000, tools=(TOOL,)))
    image = ImagePart(media_type="image/png", data="A" * 1_000_000)
    seen = await client.count_tokens(request(Message(role="user", parts=(image,))))
    assert 0 < short < 50
    assert 1000 < long < 1200
    assert 1000 <= seen < 1100


async def test_what_the_environment_holds_for_openai_goes_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-for-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-for-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: for-openai\nauthorization: Bearer for-openai")
    server.replies = [Reply(completion("ok")) for _ in range(3)]
    await ask_other(server)
    await ask_other(server, headers={"authorization": "Basic mine", "X-Mine": "1"}, api_key=KEY)
    for got in server.received:
        assert "for-openai" not in json.dumps(got.headers)
    assert server.received[1].headers["authorization"] == "Basic mine"
    assert server.received[1].headers["x-mine"] == "1"
    await ask_other(server, name="openai")
    told = server.received[2].headers
    assert told["authorization"] == "Bearer for-openai"
    assert (told["openai-organization"], told["openai-project"], told["x-gateway"]) == (
        "org-for-openai",
        "project-for-openai",
        "for-openai",
    )
