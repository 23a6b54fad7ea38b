"""The Anthropic adapter against a local server: every failure becomes one of four errors, and none of them tells the key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nodes.anthropic_api import KEY, Reply, Server, error, message, request, serve, text

from rockbot.errors import ConfigError
from rockbot.events import (
    ImagePart,
    LlmRequest,
    LlmResponse,
    Message,
)
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
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


async def failure(client: AnthropicClient, **options: Any) -> LlmError:
    with pytest.raises(LlmError) as caught:
        await call(client, **options)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


async def test_an_image_without_content_is_a_permanent_error(client: AnthropicClient) -> None:
    part = ImagePart(media_type="image/png")
    failed = await failure(client, req=request(Message(role="user", parts=(part,))))
    assert isinstance(failed, LlmPermanent)


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
    server.replies = [Reply(hang=True) for _ in range(8)]
    for seconds in (0.05, 1, 20):  # the longer ones where a connection is not made as quickly
        before, impatient = len(server.received), AnthropicClient(AnthropicAccess(KEY, server.url, seconds))
        failures = [await failure(impatient), await failure(client, deadline=seconds)]
        await impatient.close()
        if len(server.received) == before + 2:
            break
    for failed in failures:
        assert isinstance(failed, LlmUnknownOutcome)
        assert "no answer in time" in str(failed)


async def test_a_server_that_is_not_there_is_a_transient_error() -> None:
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    client = AnthropicClient(AnthropicAccess(KEY, f"http://127.0.0.1:{port}", 60))
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
    async with asyncio.timeout(60):
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
