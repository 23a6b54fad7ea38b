"""Between the host's vocabulary and chat completions, as plain data in both directions.

Many servers speak this format, each a little differently: ids and usage may be missing, arguments may be no JSON, fields of
their own must come back as they were. Reading is tolerant, writing keeps to what all of them take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
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
from rockbot_handlers.llm.output_schemas import is_strict, with_instructions
from rockbot_handlers.llm.presets import Endpoint
from rockbot_messaging.identity import derive_id

__all__ = ["request_body", "response_of"]

_STOP_REASONS: Final[Mapping[str, StopReason]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
#: After these the last tool call may be cut off, and a call with half its arguments must not be made.
_CUT_OFF: Final[frozenset[StopReason]] = frozenset({"max_tokens", "refusal"})

#: What servers add to a reply, and some of them want back with it.
_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_details")
_OPAQUE: Final = ("extra_content",)
_CALL_FIELDS: Final = frozenset({"id", "type", "function", "index"})


def request_body(request: LlmRequest, endpoint: Endpoint) -> dict[str, Any]:
    """The parameters of a call.

    Raises:
        LlmPermanent: an image has neither data nor address.
    """
    schema = request.output_schema
    if endpoint.structured_output != "json_schema":
        request = with_instructions(request)
    messages: list[dict[str, Any]] = []
    if request.system.strip():
        messages.append({"role": "system", "content": request.system})
    # A reply of which nothing is left to say must not part what the user said around it: servers want the roles to alternate.
    told = [message for message in request.messages if message.role == "user" or _assistant(message.parts, endpoint)]
    for role, group in groupby(told, key=lambda message: message.role):
        parts = [part for message in group for part in message.parts]
        messages += _assistant(parts, endpoint) if role == "assistant" else _user(parts, endpoint)
    body: dict[str, Any] = {
        "model": request.model.partition("/")[2],
        "messages": messages,
        endpoint.output_limit: request.max_output_tokens,
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in request.tools
        ]
    if schema is not None and endpoint.structured_output == "json_schema":
        named = {"name": "reply", "schema": schema, "strict": is_strict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif schema is not None and endpoint.structured_output == "json_object" and schema.get("type") == "object":
        body["response_format"] = {"type": "json_object"}
    return body


def response_of(data: Mapping[str, Any], *, provider: str, asked: str, call_id: str) -> LlmResponse:
    """The reply in a completion object.

    Args:
        data: the object.
        provider: whose it is.
        asked: the model that was asked, for servers that do not name the one that answered.
        call_id: identifies the call; the ids of tool calls that came without one derive from it.

    Raises:
        LookupError, AttributeError, TypeError, ValueError: it is no such object.
    """
    choice = data["choices"][0]
    message = choice["message"]
    stop = _STOP_REASONS.get(choice.get("finish_reason") or "", "other")
    calls, extras = _calls(message.get("tool_calls") or (), call_id)
    text = _text(message.get("content"))
    if refusal := message.get("refusal"):
        stop, text = "refusal", text or refusal
    if stop in _CUT_OFF:
        calls = []
    elif calls:
        stop = "tool_use"  # some servers say "stop" here
    elif stop == "tool_use":
        stop = "other"
    parts: list[TextPart | ToolCallPart | ThinkingPart] = []
    if kept := _kept(message, extras, with_calls=bool(calls)):
        parts.append(ThinkingPart(provider=provider, data=kept))
    if text:
        parts.append(TextPart(text=text))
    parts += calls
    return LlmResponse(
        message=Message(role="assistant", parts=tuple(parts)),
        stop_reason=stop,
        model=f"{provider}/{data.get('model') or asked}",
        usage=_usage(data.get("usage") or {}),
    )


def _text(content: object) -> str:
    if isinstance(content, str | None):
        return content or ""
    if not isinstance(content, list):
        raise TypeError("content is neither text nor a list of parts")
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _calls(given: Iterable[Mapping[str, Any]], call_id: str) -> tuple[list[ToolCallPart], dict[str, Mapping[str, Any]]]:
    """The tool calls, and under their ids what else their server said of them."""
    calls: list[ToolCallPart] = []
    extras: dict[str, Mapping[str, Any]] = {}
    for number, call in enumerate(given):
        identity = call.get("id")
        if not isinstance(identity, str) or not identity or any(identity == other.call_id for other in calls):
            identity = f"call-{derive_id(call_id, f'tool call {number}')}"
        arguments, problem = read_arguments(call["function"].get("arguments"))
        calls.append(
            ToolCallPart(call_id=identity, tool=call["function"]["name"], arguments=arguments, problem=problem)
        )
        if extra := {name: value for name, value in call.items() if name not in _CALL_FIELDS and value is not None}:
            extras[identity] = extra
    return calls, extras


def _kept(message: Mapping[str, Any], extras: Mapping[str, Any], *, with_calls: bool) -> dict[str, Any]:
    # DeepSeek wants the reasoning of a reply with tool calls back even if it was empty.
    kept = {
        name: value
        for name in (*_REASONING, *_OPAQUE)
        if (value := message.get(name)) or (value == "" and with_calls and name == "reasoning_content")
    }
    if extras and with_calls:
        kept["tool_calls"] = dict(extras)
    return kept


def _usage(usage: Mapping[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    read = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    # Here the input includes what the cache had; in ours it does not.
    return Usage(
        input_tokens=max(0, (usage.get("prompt_tokens") or 0) - read - written),
        output_tokens=usage.get("completion_tokens") or 0,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _assistant(parts: Sequence[MessagePart], endpoint: Endpoint) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant"}
    extras: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, ThinkingPart) and part.provider == endpoint.provider:
            fields = (*_REASONING, *_OPAQUE) if endpoint.reasoning else _OPAQUE
            message |= {name: part.data[name] for name in fields if name in part.data}
            extras |= part.data.get("tool_calls") or {}
    calls = [
        {
            **extras.get(part.call_id, {}),
            "id": part.call_id,
            "type": "function",
            "function": {"name": part.tool, "arguments": json.dumps(part.arguments, ensure_ascii=False)},
        }
        for part in parts
        if isinstance(part, ToolCallPart)
    ]
    text = "\n".join(said for part in parts if (said := _said(part)))
    if not text and not calls:
        return []
    message["content"] = text or None
    if calls:
        message["tool_calls"] = calls
    return [message]


def _user(parts: Sequence[MessagePart], endpoint: Endpoint) -> list[dict[str, Any]]:
    """The tool results first, each a message of its own; then, in one message, what else there is."""
    messages: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for part in parts:
        if not isinstance(part, ToolResultPart):
            continue
        text = "\n".join(said for inner in part.parts if (said := _said(inner)))
        messages.append(
            {"role": "tool", "tool_call_id": part.call_id, "content": f"error: {text}" if part.is_error else text}
        )
        # A tool message holds text only.
        for image in part.parts:
            if isinstance(image, ImagePart):
                content += [_block(f"[image from tool call {part.call_id}]"), _image(image, endpoint)]
    for part in parts:
        if isinstance(part, ImagePart):
            content.append(_image(part, endpoint))
        elif said := _said(part):
            content.append(_block(said))
    if content and all(block["type"] == "text" for block in content):
        # Plain text is the one form that every server takes.
        messages.append({"role": "user", "content": "\n".join(block["text"] for block in content)})
    elif content:
        messages.append({"role": "user", "content": content})
    return messages


def _said(part: MessagePart) -> str:
    match part:
        case TextPart():
            return part.text if part.text.strip() else ""
        case JsonPart():
            return json.dumps(part.data, ensure_ascii=False)
        case FilePart():
            return f"[file {part.name or part.uri} ({part.media_type}) at {part.uri}]"
        case _:
            return ""


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(part: ImagePart, endpoint: Endpoint) -> dict[str, Any]:
    if not part.data and not part.url:
        raise LlmPermanent(f"{endpoint.provider}: an image part has neither data nor url")
    if not endpoint.images:
        return _block(f"[image ({part.media_type}), which this model cannot see]")
    url = f"data:{part.media_type};base64,{part.data}" if part.data else part.url
    return {"type": "image_url", "image_url": {"url": url}}
