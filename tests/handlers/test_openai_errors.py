"""The OpenAI adapter against a local server: every failure becomes one of four errors, and none of them tells a secret."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nodes.openai_api import KEY, Reply, Server, completion, error, request, serve

from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.settings import OpenAiSettings
from rockbot_handlers.llm.openai import OpenAiClient, open_openai

HEADER = "a-header-secret"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[OpenAiClient]:
    settings = OpenAiSettings(api_key=KEY, base_url=server.url, timeout_seconds=60, headers={"X-Gateway-Key": HEADER})
    client = open_openai("openai", settings)
    yield client
    await client.close()


async def ask(client: OpenAiClient, req: LlmRequest | None = None, deadline: float | None = None) -> LlmResponse:
    return await client.complete(req or request(), call_id="c1", deadline=deadline)


async def failure(client: OpenAiClient, **options: Any) -> LlmError:
    with pytest.raises(LlmError) as caught:
        await ask(client, **options)
    assert KEY not in f"{caught.value}{caught.value!r}"
    assert HEADER not in f"{caught.value}{caught.value!r}"
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize(
    ("status", "headers", "code", "expected", "after"),
    [
        (429, {"retry-after": "17"}, "rate_limit_exceeded", LlmThrottled, 17),
        (429, {"retry-after": "17", "retry-after-ms": "250"}, "rate_limit_exceeded", LlmThrottled, 0.25),
        (429, {"retry-after": "3600"}, "rate_limit_exceeded", LlmThrottled, 3600),
        (429, {"retry-after": "-1"}, "rate_limit_exceeded", LlmThrottled, 5),
        (429, {}, "rate_limit_exceeded", LlmThrottled, 5),
        (429, {"retry-after": "9"}, "insufficient_quota", LlmPermanent, None),
        (529, {"retry-after": "3"}, "overloaded", LlmThrottled, 3),
        (500, {}, "server_error", LlmTransient, None),
        (503, {"retry-after": "4"}, "overloaded", LlmTransient, 4),
        (408, {}, "timeout", LlmTransient, None),
        (409, {}, "conflict", LlmTransient, None),
        (504, {}, "timeout", LlmUnknownOutcome, None),
        (400, {}, "invalid_value", LlmPermanent, None),
        (401, {}, "invalid_api_key", LlmPermanent, None),
        (402, {}, "insufficient_balance", LlmPermanent, None),
        (403, {}, "forbidden", LlmPermanent, None),
        (404, {}, "model_not_found", LlmPermanent, None),
    ],
)
async def test_an_error_status_becomes_one_of_four_errors(
    server: Server,
    client: OpenAiClient,
    status: int,
    headers: dict[str, str],
    code: str,
    expected: type[LlmError],
    after: float | None,
) -> None:
    body = error(f"what happened with {KEY} and {HEADER}", code=code)
    server.replies = [Reply(body, status=status, headers={"x-request-id": "req_42", **headers})]
    failed = await failure(client)
    assert type(failed) is expected
    assert getattr(failed, "after", None) == after
    assert str(failed) == f"openai: {status} {code}: what happened with *** and *** (request req_42)"
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "model 'x' not found, try pulling it first"}, "try pulling it first"),
        ({"object": "error", "message": "no such model", "type": "NotFoundError", "code": 404}, "no such model"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body", "model"], "msg": "missing"}]}, "missing"),
        ([{"error": {"message": "in a list"}}], "no explanation"),
        ("<html>\n a proxy </html>", "<html> a proxy </html>"),
        ("", "no explanation"),
    ],
)
async def test_the_words_of_any_server_are_found(server: Server, client: OpenAiClient, body: Any, said: str) -> None:
    server.replies = [Reply(body, status=404)]
    failed = await failure(client)
    assert isinstance(failed, LlmPermanent)
    assert said in str(failed)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("too many tokens", kind="invalid_request_error", code="context_length_exceeded")),
        (400, error("the request exceeds the available context size", kind="exceed_context_size_error", code=400)),
        (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
        (413, error("This endpoint's maximum context length is 4096 tokens", code=413)),
    ],
)
async def test_a_conversation_too_long_for_the_window_is_told_as_how_the_reply_ended(
    server: Server, client: OpenAiClient, status: int, body: Any
) -> None:
    server.replies = [Reply(body, status=status)]
    response = await ask(client)
    assert (response.stop_reason, response.message.parts, response.model) == ("context_window", (), "openai/gpt-test")


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
async def test_a_request_that_a_filter_turned_away_is_a_refusal(
    server: Server, client: OpenAiClient, code: str
) -> None:
    server.replies = [Reply(error("not this", code=code), status=400)]
    assert (await ask(client)).stop_reason == "refusal"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (error("slow down", code=429), LlmThrottled),
        (error("out of credit", code=402), LlmPermanent),
        (error("upstream broke", code=502), LlmTransient),
        (error("something"), LlmUnknownOutcome),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}]}, LlmTransient),
    ],
)
async def test_an_error_under_status_200_is_an_error(
    server: Server, client: OpenAiClient, body: Any, expected: type[LlmError]
) -> None:
    server.replies = [Reply(body)]
    assert type(await failure(client)) is expected


async def test_a_cut_connection_leaves_the_outcome_unknown(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(None)]
    failed = await failure(client)
    assert isinstance(failed, LlmUnknownOutcome)
    assert "connection ended" in str(failed)


async def test_an_answer_cut_in_the_middle_leaves_the_outcome_unknown(server: Server, client: OpenAiClient) -> None:
    server.replies = [Reply(completion("x"), headers={"content-length": "100000"})]
    assert isinstance(await failure(client), LlmUnknownOutcome)


async def test_no_answer_in_time_leaves_the_outcome_unknown(server: Server) -> None:
    server.replies = [Reply(hang=True) for _ in range(3)]
    for seconds in (0.05, 1, 20):  # the longer ones where a connection is not made as quickly
        client = open_openai("openai", OpenAiSettings(api_key=KEY, base_url=server.url, timeout_seconds=seconds))
        failed = await failure(client)
        await client.close()
        if server.received:
            break
    assert isinstance(failed, LlmUnknownOutcome)
    assert "no answer in time" in str(failed)


async def test_a_server_that_is_not_there_is_a_transient_error() -> None:
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    client = open_openai("ollama", OpenAiSettings(base_url=f"http://127.0.0.1:{port}/v1"))
    failed = await failure(client, req=request(model="ollama/x"))
    assert isinstance(failed, LlmTransient)
    assert "ollama: could not connect" in str(failed)
    await client.close()


@pytest.mark.parametrize(
    "body",
    [
        {"hello": "world"},
        {"choices": []},
        {"choices": [None]},
        {"choices": "x"},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"message": {"tool_calls": [{"id": "a"}]}}]},
        "<html>a proxy</html>",
        "\x00",
        [],
        None,
    ],
)
async def test_an_answer_that_is_no_completion_is_told_as_such(server: Server, client: OpenAiClient, body: Any) -> None:
    server.replies = [Reply(body if body is not None else "null")]
    failed = await failure(client)
    assert isinstance(failed, LlmUnknownOutcome)
    assert "is the base URL right?" in str(failed)


async def test_no_secret_is_in_a_log_or_a_repr(
    server: Server, client: OpenAiClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [Reply(completion("ok")), Reply(error("bad key", code="invalid_api_key"), status=401)]
    await ask(client)
    await failure(client)
    assert len(caplog.records) > 0
    for secret in (KEY, HEADER):
        assert secret not in caplog.text
        assert secret not in repr(client)
