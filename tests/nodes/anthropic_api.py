"""A stand-in for Anthropic's API on this machine: speaks the wire format, plays prepared replies, keeps what it received."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from nodes.anthropic_strict import violations

from rockbot.events import LlmRequest, Message, TextPart

KEY = "sk-test-0123456789-secret"


@dataclass
class Reply:
    """One answer of the server; `body` None cuts the connection, `hang` never answers, `cut` ends it before the end it
    announced."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


#: Looks at a request; a reply of its own goes before the prepared ones.
Check = Callable[[Received], Reply | None]


class Server:
    """An HTTP/1.1 server of a few lines that plays prepared replies in order; `check` may answer in their place."""

    def __init__(self, check: Check | None = None) -> None:
        self.check = check
        self.replies: list[Reply] = []
        self.received: list[Received] = []
        self.answering = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answering += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(head[0].split()[1], headers, json.loads(body)))
            refusal = self.check(self.received[-1]) if self.check is not None else None
            reply = refusal if refusal is not None else self.replies.pop(0)
            if reply.hang:
                await reader.read()
            elif reply.body is not None:
                is_text = isinstance(reply.body, str)
                data = (reply.body if is_text else json.dumps(reply.body)).encode()
                kind = "text/event-stream" if is_text and "event:" in reply.body else "application/json"
                announced = len(data) + 1000 * reply.cut
                lines = {"content-type": kind, "content-length": str(announced), "connection": "close", **reply.headers}
                text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                writer.write(f"HTTP/1.1 {reply.status} Reply\r\n{text}\r\n".encode() + data)
                await writer.drain()
        finally:
            self.answering -= 1
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
async def serve(check: Check | None = None) -> AsyncIterator[Server]:
    """A server on a free port for as long as the block lasts."""
    server = Server(check)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def call(identity: str, tool: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": tool, "input": arguments}


def thought(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": f"signed({words})"}


def pieces(value: str, size: int = 10) -> list[str]:
    return [value[at : at + size] for at in range(0, len(value), size)]


def sse(*events: dict[str, Any]) -> str:
    """Events as they travel."""
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def events_of(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """A message as the events of a stream; an `input` that is text was written so."""
    empty = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    made: list[dict[str, Any]] = [{"type": "message_start", "message": empty}, {"type": "ping"}]
    for at, block in enumerate(whole["content"]):
        start, deltas = _streamed(block)
        made.append({"type": "content_block_start", "index": at, "content_block": start})
        made += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": at})
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": whole["usage"]["output_tokens"]}
    return [*made, {"type": "message_delta", "delta": ending, "usage": usage}, {"type": "message_stop"}]


def _streamed(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        case "tool_use":
            given = block["input"]
            written = given if isinstance(given, str) else json.dumps(given)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(written)]]
            return {**block, "input": {}}, deltas
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
    return block, []


class StrictCheck:
    """Refuses what the API refuses; counts tokens. `issued` are the thinking blocks that were given out, `refused` is
    what was wrong so far."""

    def __init__(self) -> None:
        self.issued: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def __call__(self, received: Received) -> Reply | None:
        if found := violations(received.body, issued=self.issued):
            self.refused += found
            return Reply(error("invalid_request_error", "; ".join(found)), status=400)
        if received.path.endswith("/count_tokens"):
            return Reply({"input_tokens": len(json.dumps(received.body)) // 4})
        return None
