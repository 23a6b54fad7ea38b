"""From a topic and something to say to an envelope, for whoever publishes without a context to derive it from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypedDict, Unpack

from rockbot_messaging.clock import Clock, IdSource, RandomIds, SystemClock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope, ReturnAddress
from rockbot_messaging.topics import check_topic

__all__ = ["FurtherFields", "Model", "content", "outgoing"]

_JSON: Final = "application/json"
_RESERVED: Final = ("x-", "rockbot-")


class Model(Protocol):
    """What can write itself as JSON: pydantic's models."""

    def model_dump_json(self) -> str:
        """The model as JSON."""
        ...


class FurtherFields(TypedDict, total=False):
    """What else of an envelope a publisher may say."""

    tenant: str
    correlation_id: str | None
    reply_to: str | None
    destination: str | None
    causation_id: str | None
    conversation_id: str | None
    root_task_id: str | None
    deadline_ms: int | None
    return_address: ReturnAddress | None
    traceparent: str | None
    tracestate: str | None
    durable: bool


def outgoing(
    topic: str,
    body: bytes | str | Model | Mapping[str, Any] | list[Any],
    *,
    type: str | None = None,
    source: str = "",
    message_id: str | None = None,
    content_type: str | None = None,
    timeout: float | None = None,
    headers: Mapping[str, HeaderValue] | None = None,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    **fields: Unpack[FurtherFields],
) -> MessageEnvelope:
    """An envelope ready to be published.

    Args:
        topic: its routing key.
        body: bytes and text as they are, everything else as JSON.
        type: what the body is; None takes the `type_name` of the body's class if it has one, else leaves it to the topic.
        source: who publishes.
        message_id: None draws one. Give your own where publishing may be repeated: receivers tell copies by it.
        content_type: None finds out: JSON, text, or bytes.
        timeout: seconds after which nobody is interested in it any more (its deadline).
        headers: free ones.
        clock, ids: where instant and id come from.
        fields: further fields of the envelope, as in `FurtherFields`.

    Raises:
        InvalidTopic: the topic breaks the grammar.
        ValueError: a header's name is reserved, the body is no JSON, or the timeout is not above 0.
        TypeError: there is no such field.
    """
    check_topic(topic)
    for name in headers or {}:
        if not name or name.lower().startswith(_RESERVED):
            raise ValueError(f"header {name!r} cannot be set: names beginning with x- or rockbot- are reserved")
    now_ms = (clock or SystemClock()).now_ms()
    raw, found = content(body)
    if timeout is not None:
        if not timeout > 0:
            raise ValueError(f"a timeout must be above 0 seconds, not {timeout}")
        fields.setdefault("deadline_ms", now_ms + round(timeout * 1000))
    named = getattr(body, "type_name", "") if type is None else type
    return MessageEnvelope(
        topic=topic,
        body=raw,
        message_id=message_id or (ids or RandomIds()).new_id(),
        type=named if isinstance(named, str) else "",
        source=source,
        timestamp_ms=now_ms,
        content_type=content_type or found,
        headers=MappingProxyType(dict(headers or {})),
        **fields,
    )


def content(body: bytes | str | Model | Mapping[str, Any] | list[Any]) -> tuple[bytes, str]:
    """A body as bytes, and its media type.

    Raises:
        ValueError: it cannot be written as JSON.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        raw = bytes(body)
        return raw, _media_type(raw)
    if isinstance(body, str):
        raw = body.encode()
        return raw, _media_type(raw)
    if hasattr(body, "model_dump_json"):
        return body.model_dump_json().encode(), _JSON
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), _JSON
    except TypeError as exc:
        raise ValueError(f"a body of this kind cannot be sent: {exc}") from None


def _media_type(raw: bytes) -> str:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        pass
    else:
        return _JSON
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"
