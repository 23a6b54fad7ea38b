"""What servers of chat completions refuse in a request, as a checker: roles, pairs of call and result, the shape of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_FIELDS = {
    "system": {"content"},
    "user": {"content"},
    "assistant": {"content", "tool_calls"},
    "tool": {"content", "tool_call_id"},
}
#: What servers say of their own and want back.
_KEPT = {"reasoning_content", "reasoning", "reasoning_details", "extra_content"}
_TOP = {
    "model", "messages", "tools", "max_tokens", "max_completion_tokens", "stream", "stream_options", "response_format",
}  # fmt: skip


def violations(body: dict[str, Any], *, reasoning: bool = True) -> list[str]:
    """What is wrong with a request; `reasoning` says whether the server knows fields of reasoning."""
    found = [f"unrecognized request argument supplied: {name}" for name in sorted(set(body) - _TOP)]
    found += _format(body.get("response_format"))
    messages = body["messages"]
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        found.append("the conversation must end with what the model is to answer")
    open_: list[str] = []
    for at, message in enumerate(messages):
        role, where = message["role"], f"messages.{at}"
        extra = set(message) - {"role"} - _FIELDS[role] - (_KEPT if reasoning and role == "assistant" else set())
        found += [f"{where}: property '{name}' is unsupported" for name in sorted(extra)]
        if role == "system" and at:
            found.append(f"{where}: system stands first")
        if role != "tool" and open_:
            found.append(f"{where}: tool_call_ids did not have response messages: {open_}")
            open_ = []
        if role == "tool":
            if not open_ or open_.pop(0) != message["tool_call_id"]:
                found.append(f"{where}: no tool_call of that id comes at this place")
            if not isinstance(message["content"], str):
                found.append(f"{where}: content must be text")
        if role == "user":
            found += [f"{where}: {what}" for what in _content(message["content"])]
            if at and messages[at - 1]["role"] == "user":
                found.append(f"{where}: two user messages in a row")
        if role == "assistant":
            calls = message.get("tool_calls", [])
            open_ = [call["id"] for call in calls]
            found += [f"{where}: {what}" for call in calls for what in _call(call)]
            if not message["content"] and not calls:
                found.append(f"{where}: neither content nor tool_calls")
            if len(open_) != len(set(open_)):
                found.append(f"{where}: duplicate ids")
    if open_:
        found.append(f"tool_call_ids did not have response messages: {open_}")
    return found


def _content(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        if not content:
            yield "content is empty"
        return
    for part in content:
        if part["type"] not in ("text", "image_url") or not part[part["type"]]:
            yield f"malformed part {part}"


def _call(call: dict[str, Any]) -> Iterator[str]:
    if call["type"] != "function" or not call["id"]:
        yield "malformed tool call"
    try:
        if not isinstance(json.loads(call["function"]["arguments"]), dict):
            yield "arguments are no object"
    except ValueError:
        yield "arguments are not JSON"


def _format(asked: dict[str, Any] | None) -> Iterator[str]:
    if asked is None or asked["type"] == "json_object":
        return
    schema = asked["json_schema"]
    if asked["type"] != "json_schema" or not schema["name"]:
        yield "response_format is malformed"
    if schema.get("strict") and not _closed(schema["schema"]):
        yield "Invalid schema for response_format: 'additionalProperties' is required to be supplied and to be false"


def _closed(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(map(_closed, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(schema.get("properties", ())):
            return False
    return all(map(_closed, schema.values()))
