"""What a message looks like after it went over the wire, without a wire.

The in-memory provider must not carry more than AMQP does, or a program that works on it would break on a broker:
timestamps lose their milliseconds, reserved header names are taken out, the user is the connection's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from rockbot_messaging.clock import IdSource
from rockbot_messaging.envelope import DEFAULT_TENANT, HeaderValue, MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import BodyTooLarge
from rockbot_messaging.headers import DEFAULT_MAX_HEADER_BYTES, check_headers, header_bytes, may_be_large
from rockbot_messaging.identity import foreign_id
from rockbot_messaging.letters import Failure

__all__ = ["check_size", "from_foreign", "on_the_wire", "shortened"]

_FIELDS: Final = tuple(field.name for field in dataclasses.fields(MessageEnvelope))
_VALUES: Final = attrgetter(*_FIELDS)
_SET: Final = tuple(getattr(MessageEnvelope, name).__set__ for name in _FIELDS)
_SET_TIMESTAMP, _SET_USER, _SET_REDELIVERED, _SET_HEADERS = (
    _SET[_FIELDS.index(name)] for name in ("timestamp_ms", "user_id", "redelivered", "headers")
)
_SHORT_TEXTS: Final = attrgetter("message_id", "type", "source", "content_type", "correlation_id", "reply_to")
#: Bytes of an AMQP short string, and characters that cannot have more bytes than that.
_SHORTEST_LIMIT: Final = 255
_SURELY_SHORT: Final = 63
_NOT_FREE: Final = frozenset({"traceparent", "tracestate", "CC", "BCC"})


def check_size(envelope: MessageEnvelope, limit: int, max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES) -> None:
    """Refuse what would not fit into an AMQP message.

    Raises:
        BodyTooLarge: the body is longer than `limit` bytes.
        HeadersTooLarge: the headers have more than `max_header_bytes`.
        ValueError: a property is longer than 255 bytes, or a header has no type of the wire.
    """
    if len(envelope.body) > limit:
        raise BodyTooLarge(
            f"the body for topic {envelope.topic!r} has {len(envelope.body)} bytes, the limit is {limit}: "
            "send a reference to it, or raise the limit on both sides"
        )
    for text in _SHORT_TEXTS(envelope):
        if text is not None and len(text) > _SURELY_SHORT and len(text.encode()) > _SHORTEST_LIMIT:
            raise ValueError(f"{text[:40]!r}... has {len(text.encode())} bytes, AMQP allows {_SHORTEST_LIMIT}")
    for header in envelope.headers.items():
        _check_header(header)
    if may_be_large(envelope):
        check_headers(header_bytes(envelope), max_header_bytes, envelope.topic)


def _check_header(header: tuple[str, HeaderValue]) -> None:
    name, value = header
    if len(name.encode()) > _SHORTEST_LIMIT:
        raise ValueError(f"header name {name[:40]!r}... has {len(name.encode())} bytes, AMQP allows {_SHORTEST_LIMIT}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"header {name!r}: {value} does not fit into 64 bits")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"header {name!r} is a {type(value).__name__}: use text, a number, a boolean or None")


def on_the_wire(envelope: MessageEnvelope, user_id: str | None) -> MessageEnvelope:
    """`envelope` as its receiver will see it."""
    headers = envelope.headers
    if headers and any(map(_is_reserved, headers)):
        headers = _free(headers)
    seconds = envelope.timestamp_ms // 1000 * 1000
    if (
        headers is envelope.headers
        and seconds == envelope.timestamp_ms
        and user_id == envelope.user_id
        and not envelope.redelivered
    ):
        return envelope
    # A copy by slots costs a third of `dataclasses.replace`, and every publish with a fresh timestamp needs one.
    copy = object.__new__(MessageEnvelope)
    for put, value in zip(_SET, _VALUES(envelope), strict=True):
        put(copy, value)
    _SET_TIMESTAMP(copy, seconds)
    _SET_USER(copy, user_id)
    _SET_REDELIVERED(copy, False)
    _SET_HEADERS(copy, headers)
    return copy


def shortened(failure: Failure) -> Failure:
    """`failure` with its texts cut, in their middle, to what fits into a content header."""
    if len(failure.reason) <= 500 and len(failure.error_type) <= 50 and len(failure.traceback) <= 4000:
        return failure
    return dataclasses.replace(
        failure,
        reason=_clip(failure.reason, 2000),
        error_type=_clip(failure.error_type, 200),
        traceback=_clip(failure.traceback, 16_000),
    )


def _clip(text: str, limit: int) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return text
    note = f"\n... [{len(raw)} bytes, the middle is left out] ...\n"
    head = (limit - len(note)) // 3
    tail = limit - len(note) - head
    return raw[:head].decode("utf-8", "ignore") + note + raw[-tail:].decode("utf-8", "ignore")


def from_foreign(
    topic: str,
    body: bytes,
    *,
    ids: IdSource,
    reply_to: str | None,
    correlation_id: str | None,
    message_id: str | None,
    content_type: str | None,
    headers: Mapping[str, Any],
    app_id: str | None,
) -> MessageEnvelope:
    """The envelope of a plain client's message; a header of ours that has another type is as if it were not there."""
    known: dict[str, Any] = {}
    for names, wanted in ((_TEXTS, str), (_NUMBERS, int)):
        for name, field in names.items():
            value = headers.get(name)
            if type(value) is wanted and value:
                known[field] = value
    address = headers.get("rockbot-return-topic"), headers.get("rockbot-return-token", "")
    if isinstance(address[0], str) and isinstance(address[1], str):
        known["return_address"] = ReturnAddress(address[0], address[1])
    identity = foreign_id(
        publisher=app_id,
        topic=topic,
        message_id=message_id,
        reply_to=reply_to,
        correlation_id=correlation_id,
        body=body,
        tenant=known.get("tenant", DEFAULT_TENANT),
    )
    return MessageEnvelope(
        topic=topic,
        body=body,
        message_id=identity or ids.new_id(),
        type="",
        source=app_id or "",
        content_type=content_type or "application/json",
        correlation_id=correlation_id,
        reply_to=reply_to,
        headers=_free(headers),
        **known,
    )


_TEXTS: Final = {
    "rockbot-tenant": "tenant",
    "rockbot-destination": "destination",
    "rockbot-causation-id": "causation_id",
    "rockbot-conversation-id": "conversation_id",
    "rockbot-root-task-id": "root_task_id",
    "rockbot-claim": "claim",
    "rockbot-signature": "signature",
    "rockbot-foreign-id": "foreign_id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
_NUMBERS: Final = {
    "rockbot-schema-version": "schema_version",
    "rockbot-deadline": "deadline_ms",
    "rockbot-attempt": "attempt",
    "rockbot-handbacks": "handbacks",
    "rockbot-due": "due_ms",
    "rockbot-first-failed": "first_failed_ms",
}


def _free(headers: Mapping[str, HeaderValue]) -> Mapping[str, HeaderValue]:
    return MappingProxyType({name: value for name, value in headers.items() if not _is_reserved(name)})


def _is_reserved(name: str) -> bool:
    return name.startswith(("x-", "rockbot-")) or name in _NOT_FREE
