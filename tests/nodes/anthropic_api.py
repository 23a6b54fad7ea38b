"""A stand-in for Anthropic's API on this machine: speaks the wire format, plays prepared replies, keeps what it received."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from rockbot.events import LlmRequest, Message, TextPart

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


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[Server]:
    """A server on a free port for as long as the block lasts."""
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
