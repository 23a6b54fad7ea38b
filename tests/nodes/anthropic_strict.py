"""What Anthropic's API refuses in a request, as a checker: roles, pairs of call and result, their order, the shape of blocks.

Stricter than the API where that says more: it merges neighbours of one role, we want none; it takes results in any order, we want
the order of the calls.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any

_TOP = {"model", "max_tokens", "messages", "system", "tools", "stream", "output_config"}
_FIELDS = {
    "text": {"text"},
    "image": {"source"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
_ROLES = {
    "user": {"text", "image", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
}
_THINKING = {"thinking", "redacted_thinking"}


def violations(body: dict[str, Any], *, issued: Iterable[dict[str, Any]] | None = None) -> list[str]:
    """What is wrong with a request; `issued` are the thinking blocks that were given out, None to believe any."""
    known = None if issued is None else list(issued)
    found = [f"unknown parameter {name}" for name in sorted(set(body) - _TOP)]
    found += _heads(body)
    messages = body.get("messages") or []
    if not messages:
        return [*found, "messages: at least one message is required"]
    for at, message in enumerate(messages):
        where = f"messages.{at}"
        if message["role"] != ("user", "assistant")[at % 2]:
            found.append(f"{where}: roles must alternate and begin with user")
        if not message["content"]:
            found.append(f"{where}: content must not be empty")
        for number, block in enumerate(message["content"]):
            found += [f"{where}.content.{number}: {what}" for what in _block(block, message["role"], known)]
        if message["role"] == "assistant" and message["content"] and message["content"][-1]["type"] in _THINKING:
            found.append(f"{where}: The final block in an assistant message cannot be `thinking`.")
    if messages[-1]["role"] != "user":
        found.append("messages: the conversation must end with a user message")
    found += _pairs(messages)
    marks = [block for block in _all_blocks(body) if "cache_control" in block]
    if len(marks) > 4:
        found.append(f"a maximum of 4 blocks with cache_control may be provided, found {len(marks)}")
    found += [f"cache_control on a {block['type']} block" for block in marks if block.get("type") in _THINKING]
    return found


def _heads(body: dict[str, Any]) -> Iterator[str]:
    if not body.get("model"):
        yield "model: is required"
    for block in body.get("system", []):
        if block.get("type") != "text" or not block["text"].strip():
            yield "system: text content blocks must contain non-whitespace text"
    names = [tool["name"] for tool in body.get("tools", [])]
    if len(names) != len(set(names)):
        yield "tools: tool names must be unique"
    for tool in body.get("tools", []):
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]) or tool["input_schema"].get("type") != "object":
            yield f"tools: {tool['name']!r} is malformed"
    output = (body.get("output_config") or {}).get("format")
    if output is not None and (output.get("type") != "json_schema" or not _closed(output["schema"])):
        yield "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"


def _closed(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(map(_closed, schema))
    if not isinstance(schema, dict):
        return True
    open_ = schema.get("type") == "object" and schema.get("additionalProperties") is not False
    return not open_ and all(map(_closed, schema.values()))


def _block(block: dict[str, Any], role: str, issued: list[dict[str, Any]] | None) -> Iterator[str]:
    kind = block["type"]
    if kind not in _ROLES[role]:
        yield f"a {kind} block cannot stand in a {role} message"
        return
    if extra := set(block) - _FIELDS[kind] - {"type", "cache_control"}:
        yield f"{', '.join(sorted(extra))}: Extra inputs are not permitted"
    if missing := _FIELDS[kind] - set(block) - {"is_error", "content"}:
        yield f"{', '.join(sorted(missing))}: Field required"
        return
    if kind == "text" and not block["text"].strip():
        yield "text content blocks must contain non-whitespace text"
    if kind == "tool_use" and not isinstance(block["input"], dict):
        yield "input: must be an object"
    if kind == "image":
        yield from _image(block["source"])
    if kind in _THINKING and issued is not None and block not in issued:
        yield f"`{kind}` blocks cannot be modified, they must remain as they were in the original response"
    for inner in block.get("content", []) if kind == "tool_result" else []:
        if inner["type"] not in ("text", "image"):
            yield f"a {inner['type']} block cannot stand in a tool_result"
        else:
            yield from _block(inner, "user", issued)


def _image(source: dict[str, Any]) -> Iterator[str]:
    if source["type"] == "url":
        if not source["url"].startswith("https://"):
            yield "source: only https URLs are supported"
        return
    if source["media_type"] not in ("image/jpeg", "image/png", "image/gif", "image/webp"):
        yield f"source: media type {source['media_type']} is not supported"
    try:
        base64.b64decode(source["data"], validate=True)
    except binascii.Error:
        yield "source: invalid base64 data"


def _pairs(messages: list[dict[str, Any]]) -> Iterator[str]:
    for at, message in enumerate(messages):
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        before = messages[at - 1]["content"] if at else []
        asked = [block["id"] for block in before if block["type"] == "tool_use"]
        if message["role"] == "user" and results != asked:
            yield f"messages.{at}: tool_use ids were {asked}, tool_result blocks are for {results}"
        kinds = [block["type"] == "tool_result" for block in message["content"]]
        if kinds != sorted(kinds, reverse=True):
            yield f"messages.{at}: tool_result blocks must come first"
        calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        if len(calls) != len(set(calls)):
            yield f"messages.{at}: tool_use ids must be unique"


def _all_blocks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from body.get("system", [])
    yield from body.get("tools", [])
    for message in body["messages"]:
        for block in message["content"]:
            yield block
            if block["type"] == "tool_result":
                yield from block.get("content", [])
