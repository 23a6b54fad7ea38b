"""CloudEvents 1.0 as other systems send them, read into plain properties; we never write them.

Binary mode has each attribute in a header, ``cloudEvents_<name>`` or ``cloudEvents:<name>``; structured mode has the
whole event as JSON (AMQP protocol binding, sections 3.1 and 3.2).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from rockbot_messaging.errors import Undecodable

__all__ = ["CloudEvent", "read_binary", "read_structured"]

_PREFIXES: Final = ("cloudEvents_", "cloudEvents:")
_STRUCTURED: Final = "application/cloudevents"


class CloudEvent(NamedTuple):
    """The attributes we have a place for; None where the event has none. `body` is None in binary mode."""

    id: str | None
    type: str | None
    source: str | None
    timestamp_ms: int | None
    content_type: str | None
    correlation_id: str | None
    traceparent: str | None
    tracestate: str | None
    body: bytes | None


def read_binary(headers: Mapping[str, Any]) -> tuple[CloudEvent, frozenset[str]] | None:
    """The event in these headers and the names of the headers it takes up; None when there is none."""
    attributes: dict[str, Any] = {}
    taken: set[str] = set()
    for name, value in headers.items():
        if name.startswith(_PREFIXES):
            attributes[name[len(_PREFIXES[0]) :]] = value
            taken.add(name)
    if "type" not in attributes and "specversion" not in attributes:
        return None
    return _event(attributes, None, None), frozenset(taken)


def read_structured(content_type: str | None, body: bytes) -> CloudEvent | None:
    """The event in a body whose media type says that it is one; None when it says something else.

    Raises:
        Undecodable: the body is not the event that the media type promises.
    """
    if content_type is None or not content_type.startswith(_STRUCTURED):
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/cloudevents+json":
        raise Undecodable(f"CloudEvents in the form {kind!r} are not read: send application/cloudevents+json")
    try:
        attributes = json.loads(body)
        if not isinstance(attributes, dict):
            raise ValueError("it is no JSON object")
        media = attributes.get("datacontenttype")
        if "data_base64" in attributes:
            data = base64.b64decode(attributes["data_base64"], validate=True)
            media = media or "application/octet-stream"
        elif isinstance(attributes.get("data"), str) and media and "json" not in media:
            data = attributes["data"].encode()
        else:
            data = json.dumps(attributes.get("data"), ensure_ascii=False).encode() if "data" in attributes else b""
            media = media or "application/json"
    except (ValueError, TypeError, RecursionError, binascii.Error) as exc:
        raise Undecodable(f"the body is no structured CloudEvent: {exc}") from None
    return _event(attributes, data, media)


def _event(attributes: Mapping[str, Any], body: bytes | None, media: str | None) -> CloudEvent:
    def text(name: str) -> str | None:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Undecodable(f"the attribute {name!r} of the CloudEvent is no text that UTF-8 can carry") from None
        return value

    return CloudEvent(
        id=text("id"),
        type=text("type"),
        source=text("source"),
        timestamp_ms=_milliseconds(text("time")),
        content_type=media if isinstance(media, str) else None,
        correlation_id=text("correlation"),
        traceparent=text("traceparent"),
        tracestate=text("tracestate"),
        body=body,
    )


def _milliseconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
