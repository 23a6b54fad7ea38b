"""Between the host's vocabulary and the Messages API of Anthropic (version 2026-10-21), as plain data in both directions.

Rules of that API shape this module: all results of one reply's tool calls stand together at the head of one user message;
thinking blocks go back exactly as they came and never end a message; text without a visible character is refused; what is
marked as cached is the request up to there, tools first, then system, then messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rockbot.events import (
    FilePart,
    ImagePart,
    JsonPart,
    LlmRequest,
    LlmResponse,
    Message,
    MessagePart,
    StopReason,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from rockbot.llm import LlmPermanent
from rockbot_handlers.llm.arguments import read_arguments

__all__ = ["PROVIDER", "request_body", "response_of"]

PROVIDER: Final = "anthropic"

#: Characters from which on caching pays; the API ignores shorter prefixes.
CACHE_FROM_CHARS: Final = 4000

_CACHED: Final = {"type": "ephemeral"}

_THINKING: Final = ("thinking", "redacted_thinking")

_STOP_REASONS: Final[Mapping[str, StopReason]] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_window",
}
#: After these the last tool call may be cut off, and a call with half its arguments must not be made.
_CUT_OFF: Final[frozenset[StopReason]] = frozenset({"max_tokens", "refusal", "context_window"})


def request_body(request: LlmRequest) -> dict[str, Any]:
    """The parameters of a call, without `max_tokens`.

    Raises:
        LlmPermanent: an image has neither data nor address.
    """
    body: dict[str, Any] = {
        "model": request.model.partition("/")[2],
        "messages": _messages(request.messages),
    }
    if request.system.strip():
        body["system"] = [{"type": "text", "text": request.system}]
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in request.tools
        ]
    _mark(body)
    return body


def _mark(body: dict[str, Any]) -> None:
    """Say what is worth keeping: what every call of the agent begins with, and the conversation where it will go on.

    The next call reads up to the last message of this one; it marks that again, so that it is found however much came since.
    """
    stable = len(json.dumps([body.get("system"), body.get("tools")]))
    if stable >= CACHE_FROM_CHARS:
        body["system" if "system" in body else "tools"][-1]["cache_control"] = _CACHED
    messages = body["messages"]
    goes_on = "tools" in body or len(messages) > 1
    if goes_on and stable + len(json.dumps(messages)) >= CACHE_FROM_CHARS:
        for message in [message for message in messages if message["role"] == "user"][-2:]:
            message["content"][-1] = {**message["content"][-1], "cache_control": _CACHED}


def response_of(data: Mapping[str, Any]) -> LlmResponse:
    """The reply in a message object of the API.

    Raises:
        KeyError, TypeError, ValueError: it is no such object.
    """
    stop = _STOP_REASONS.get(data.get("stop_reason") or "", "other")
    parts = [_part(block) for block in data["content"]]
    if stop in _CUT_OFF:
        parts = [part for part in parts if not isinstance(part, ToolCallPart)]
    usage = data.get("usage") or {}
    return LlmResponse(
        message=Message(role="assistant", parts=tuple(parts)),
        stop_reason=stop,
        model=f"{PROVIDER}/{data['model']}",
        usage=Usage(
            input_tokens=usage.get("input_tokens") or 0,
            output_tokens=usage.get("output_tokens") or 0,
            cache_read_tokens=usage.get("cache_read_input_tokens") or 0,
            cache_write_tokens=usage.get("cache_creation_input_tokens") or 0,
        ),
    )


def _part(block: Mapping[str, Any]) -> TextPart | ToolCallPart | ThinkingPart:
    match block["type"]:
        case "text":
            return TextPart(text=block["text"])
        case "tool_use":
            arguments, problem = read_arguments(block["input"])
            return ToolCallPart(call_id=block["id"], tool=block["name"], arguments=arguments, problem=problem)
        case _:
            # Thinking, redacted thinking, and whatever comes later: only the provider can read it, so it goes back as is.
            return ThinkingPart(provider=PROVIDER, data=dict(block))


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Alternating roles; neighbours of one role become one message, so that results of one reply stay together."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        blocks = [block for part in message.parts if (block := _block(part)) is not None]
        while blocks and message.role == "assistant" and blocks[-1]["type"] in _THINKING:
            # What it led to was cut off (and a call that was cut off is not kept).
            blocks.pop()
        if not blocks:
            continue
        if merged and merged[-1]["role"] == message.role:
            merged[-1]["content"].extend(blocks)
        else:
            merged.append({"role": message.role, "content": blocks})
    for entry in merged:
        if entry["role"] == "user":
            entry["content"].sort(key=lambda block: block["type"] != "tool_result")
    return merged


def _block(part: MessagePart) -> dict[str, Any] | None:
    match part:
        case ToolCallPart():
            return {"type": "tool_use", "id": part.call_id, "name": part.tool, "input": part.arguments}
        case ToolResultPart():
            content = [block for inner in part.parts if (block := _block(inner)) is not None]
            result: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.call_id, "content": content}
            if part.is_error:
                result["is_error"] = True
            return result
        case ThinkingPart():
            return part.data if part.provider == PROVIDER else None
        case TextPart():
            return {"type": "text", "text": part.text} if part.text.strip() else None
        case JsonPart():
            return {"type": "text", "text": json.dumps(part.data, ensure_ascii=False)}
        case ImagePart():
            return {"type": "image", "source": _image(part)}
        case FilePart():
            name = part.name or part.uri
            return {"type": "text", "text": f"[file {name} ({part.media_type}) at {part.uri}]"}


def _image(part: ImagePart) -> dict[str, Any]:
    if part.data:
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.url:
        return {"type": "url", "url": part.url}
    raise LlmPermanent("anthropic: an image part has neither data nor url")
