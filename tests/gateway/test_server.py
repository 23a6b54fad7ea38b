"""The socket: who may connect, who may take it, and what remains of it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import stat
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from gateway.fake_agent import FakeHost, fake_host, served_host

from rockbot.gateway.api import request_limit
from rockbot.gateway.app import create_app
from rockbot.gateway.client import SocketOperator
from rockbot.gateway.server import GatewayServer, serve
from rockbot.operators.faults import HostUnreachable, SocketTaken


async def call(host: FakeHost, method: str, path: str, content: Any = None, **headers: str) -> httpx2.Response:
    transport = httpx2.AsyncHTTPTransport(uds=str(host.socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://rockbot", timeout=60) as client:
        return await client.request(
            method, path, content=content, headers={"content-type": "application/json", **headers}
        )


async def chunks(size: int) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for _ in range(0, size, 1000):
        yield b" " * 1000


def code_of(response: httpx2.Response) -> str:
    return str(response.json()["error"]["code"])


async def test_only_its_owner_may_connect(host: FakeHost) -> None:
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.socket.parent.stat().st_mode) == 0o700


async def test_the_socket_goes_with_its_server() -> None:
    async with fake_host() as host:
        async with serve(create_app(host.operator), host.socket):
            assert (await call(host, "GET", "/v1/health")).json()["status"] == "ok"
        assert not host.socket.exists()
        operator = SocketOperator(host.socket)
        with pytest.raises(HostUnreachable, match=rf"no running host at {host.socket}: start one with `rockbot up`"):
            await operator.dead_letters.queues()
        await operator.close()


async def test_a_socket_left_by_a_dead_process_is_replaced() -> None:
    async with fake_host() as host:
        host.socket.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(host.socket))
        async with serve(create_app(host.operator), host.socket):
            assert (await call(host, "GET", "/v1/health")).status_code == 200


async def test_a_socket_in_use_is_refused_and_left_alone(host: FakeHost) -> None:
    with pytest.raises(SocketTaken, match=rf"another host listens on {host.socket}"):
        GatewayServer(create_app(host.operator), host.socket).bind()
    assert (await call(host, "GET", "/v1/health")).status_code == 200


async def test_a_file_that_is_no_socket_is_not_removed() -> None:
    async with fake_host() as host:
        host.socket.parent.mkdir()
        host.socket.write_text("precious")
        with pytest.raises(SocketTaken, match="is no socket"):
            GatewayServer(create_app(host.operator), host.socket).bind()
        assert host.socket.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_told() -> None:
    async with fake_host() as host:
        with pytest.raises(SocketTaken, match="longer than 107 bytes"):
            GatewayServer(create_app(host.operator), host.folder / ("x" * 120)).bind()


async def test_who_connects_before_the_server_starts_waits() -> None:
    async with fake_host() as host:
        server = GatewayServer(create_app(host.operator), host.socket)
        server.bind()
        early = asyncio.create_task(call(host, "GET", "/v1/health"))
        await asyncio.sleep(0)
        await server.start()
        assert (await early).status_code == 200
        await server.close()
        await server.close()


async def test_a_server_that_never_started_gives_its_socket_back() -> None:
    async with fake_host() as host:
        server = GatewayServer(create_app(host.operator), host.socket)
        server.bind()
        await server.close()
        assert not host.socket.exists()


async def test_signals_stay_the_callers_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with served_host() as host:
        await call(host, "GET", "/v1/health")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_stopping_ends_a_question_in_flight() -> None:
    async with fake_host() as host:
        operator = SocketOperator(host.socket)

        async def ask() -> None:
            async for _ in operator.ask("assistant", "silent", timeout=60):
                pass

        async with asyncio.timeout(60):
            async with serve(create_app(host.operator), host.socket):
                waiting = asyncio.create_task(ask())
                await host.agent.asked.wait()
            with pytest.raises(HostUnreachable, match="went away before it answered"):
                await waiting
        assert host.watchers() == []
        await operator.close()


async def test_errors_are_json_with_a_code(host: FakeHost) -> None:
    for method, path, content, status, code in (
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("PUT", "/v1/queues", None, 405, "method_not_allowed"),
        ("GET", "/v1/queues/none/letters/abcdef", None, 404, "letter_not_found"),
        ("GET", "/v1/letters?queue=none", None, 404, "letter_not_found"),
        ("GET", "/v1/letters?limit=0", None, 422, "invalid_request"),
        ("GET", "/v1/letters?quue=unrouted", None, 422, "invalid_request"),
        ("POST", "/v1/letters/discard", b'{"which": {}, "reason": ""}', 422, "invalid_request"),
        ("POST", "/v1/messages", b"{", 422, "invalid_request"),
        ("POST", "/v1/messages", b'{"topic": "a b"}', 400, "invalid_topic"),
        ("POST", "/v1/messages", b'{"topic": "a.b", "bodi": ""}', 422, "invalid_request"),
        ("POST", "/v1/messages", b'{"topic": "a.b", "body": "*", "body_encoding": "base64"}', 422, "invalid_request"),
        ("POST", "/v1/messages", b'{"topic": "a.b"}', 409, "unroutable"),
        ("POST", "/v1/agents/assistant/ask", b'{"text": ""}', 422, "invalid_request"),
    ):
        response = await call(host, method, path, content)
        assert (path, response.status_code, code_of(response)) == (path, status, code)


async def test_an_unforeseen_error_is_hidden_from_the_client_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise KeyError("internal detail")

    async with fake_host() as host, serve(create_app(Broken()), host.socket):  # type: ignore[arg-type]
        response = await call(host, "GET", "/v1/queues")
    assert (response.status_code, code_of(response)) == (500, "internal")
    assert "internal detail" not in response.text
    assert "internal detail" in caplog.text


async def test_a_request_beyond_the_limit_is_refused() -> None:
    async with served_host(max_body_bytes=2048) as host:
        limit = request_limit(2048)
        response = await call(host, "POST", "/v1/messages", b" " * (limit + 1))
        assert (response.status_code, code_of(response)) == (413, "body_too_large")
        response = await call(host, "POST", "/v1/messages", chunks(limit + 1))
        assert (response.status_code, code_of(response)) == (413, "body_too_large")
        operator = SocketOperator(host.socket)
        assert (await operator.publish("agent.task.assistant", b"x" * 2048)).topic == "agent.task.assistant"
        await operator.close()


async def test_an_answer_is_a_stream_of_lines(host: FakeHost) -> None:
    response = await call(host, "POST", "/v1/agents/assistant/ask", b'{"text": "hi", "timeout": 5}')
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [line["kind"] for line in lines] == ["status", "status", "response"]
    assert lines[-1]["response"]["output"] == "HI"


async def test_an_answer_is_a_stream_of_server_sent_events_for_those_who_accept_them(host: FakeHost) -> None:
    body = b'{"text": "speak", "timeout": 5, "stream": true}'
    response = await call(host, "POST", "/v1/agents/assistant/ask", body, accept="text/event-stream")
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in response.text.split("\n\n")[:-1]]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event["event"] for event in events] == ["status", "status", *["piece"] * 4, "response"]
    assert [json.loads(event["data"])["kind"] for event in events] == [event["event"] for event in events]
    assert json.loads(events[-2]["data"])["piece"]["text"] == "AK"


async def test_the_api_describes_itself(host: FakeHost) -> None:
    paths = (await call(host, "GET", "/v1/openapi.json")).json()["paths"]
    assert {"/v1/messages", "/v1/agents/{agent}/ask", "/v1/letters/replay", "/v1/doctor"} <= set(paths)
