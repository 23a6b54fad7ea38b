"""A stand-in for servers of chat completions on this machine: prepared replies in their wire format, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

from nodes.anthropic_api import KEY, Received, Reply, Server, serve
from nodes.openai_strict import violations

from rockbot.events import LlmRequest, Message, TextPart

__all__ = [
    "DONE",
    "KEY",
    "Reply",
    "Server",
    "StrictCheck",
    "call",
    "chunk",
    "completion",
    "error",
    "request",
    "serve",
    "sse",
]

DONE = "data: [DONE]\n\n"


def completion(
    content: Any = None, *calls: dict[str, Any], stop: str | None = "stop", usage: Any = None, **fields: Any
) -> dict[str, Any]:
    """A completion; `fields` go into its message."""
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **fields}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-test-1",
        "choices": [{"index": 0, "message": message, "finish_reason": stop}],
        "usage": usage or {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


def call(identity: str | None, tool: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    known = {} if identity is None else {"id": identity}
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {**known, "type": "function", "function": {"name": tool, "arguments": written}, **fields}


def error(words: str, *, kind: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": None, "code": code}}


def chunk(stop: str | None = None, *, usage: Any = None, **delta: Any) -> dict[str, Any]:
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": stop}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test-1",
            "choices": choices, "usage": usage}  # fmt: skip


def sse(*chunks: dict[str, Any], end: str = DONE) -> Reply:
    """A streamed reply."""
    text = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + end
    return Reply(text, headers={"content-type": "text/event-stream"})


def request(*messages: Message, model: str = "openai/gpt-test", **fields: Any) -> LlmRequest:
    given = messages or (Message(role="user", parts=(TextPart(text="hi"),)),)
    return LlmRequest(model=model, messages=given, **fields)


class StrictCheck:
    """Refuses what such servers refuse."""

    def __init__(self, *, reasoning: bool = True) -> None:
        self.reasoning = reasoning

    def __call__(self, received: Received) -> Reply | None:
        if found := violations(received.body, reasoning=self.reasoning):
            return Reply(error("; ".join(found), kind="invalid_request_error"), status=400)
        return None
