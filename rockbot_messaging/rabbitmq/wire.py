"""Envelopes as AMQP property lists, and back.

Writing is strict and always builds a new property list, so that nothing of an earlier delivery (death history, carbon
copies, expiration, another user's id) can travel on. Reading is tolerant: a field that is missing or of another type
is as if it were not there; only a property list that cannot be taken apart at all is undecodable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

from rockbot_messaging.clock import IdSource
from rockbot_messaging.envelope import DEFAULT_TENANT, SCHEMA_VERSION, HeaderValue, MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.identity import derive_id, foreign_id
from rockbot_messaging.rabbitmq import cloudevents
from rockbot_messaging.rabbitmq.fields import Properties, decode_properties, header_sizes

__all__ = [
    "COUNTED",
    "HEADER_PREFIX",
    "ContentIds",
    "Delivery",
    "acquisitions_of",
    "decode",
    "envelope_of",
    "properties_of",
    "returns_of",
    "to_properties",
    "written_by_sender",
]

HEADER_PREFIX: Final = "rockbot-"

_SCHEMA: Final = "rockbot-schema-version"
_TOPIC: Final = "rockbot-origin-topic"
_USER: Final = "rockbot-user"
_FOREIGN: Final = "rockbot-foreign-id"
#: Characters of a foreign id that are kept; a property of AMQP has no more, an id of a CloudEvent may.
_LONGEST_ID: Final = 255
_NO_HEADERS: Final[Mapping[str, HeaderValue]] = MappingProxyType({})
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_BEYOND: Final = 1 << 63
#: Characters of a trace header that travel on; W3C asks for 512, and every message of a turn repeats them.
_LONGEST_TRACE: Final = 4096
_NOT_FREE: Final = frozenset({"traceparent", "tracestate", "CC", "BCC"})
_RETURNS: Final = "x-delivery-count"
_ACQUIRED: Final = "x-acquired-count"
#: What the broker counts on a copy while it lies in a queue.
COUNTED: Final = frozenset((_RETURNS, _ACQUIRED))
#: What passing a message on adds or changes, and how many bytes of a history may be ours.
_ADDED: Final = frozenset(
    {
        _TOPIC, _USER, _FOREIGN,
        "rockbot-attempt", "rockbot-handbacks", "rockbot-due", "rockbot-first-failed", "rockbot-history",
    }
)  # fmt: skip
_OUR_HISTORY: Final = 8 * 1024


@final
class Delivery:
    """One message as the broker handed it over, its property list still in bytes."""

    __slots__ = ("body", "exchange", "properties", "redelivered", "routing_key", "tag")

    def __init__(
        self, tag: int, exchange: str, routing_key: str, properties: bytes, body: bytes, *, redelivered: bool
    ) -> None:
        self.tag = tag
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.redelivered = redelivered


@final
class ContentIds:
    """An `IdSource` that gives the same id for the same message, for those that carry nothing to tell them by.

    What the broker adds on the way (`x-` headers) does not count, nor does the order of headers: RabbitMQ 3.x sorts them when it
    adds its count of deliveries.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def new_id(self) -> str:
        try:
            properties = decode_properties(self._delivery.properties)
            named = sorted((properties.headers or {}).items(), key=lambda header: header[0])
            headers = {name: value for name, value in named if not name.startswith("x-")}
            kept = repr(properties._replace(headers=headers)).encode()
        except ValueError:
            kept = self._delivery.properties
        return derive_id("content", hashlib.sha256(kept + b"\0" + self._delivery.body).hexdigest())


def properties_of(delivery: Delivery) -> Properties:
    """The property list of a delivery.

    Raises:
        Undecodable: it cannot be taken apart.
    """
    try:
        return decode_properties(delivery.properties)
    except ValueError as exc:
        raise Undecodable(f"the message's AMQP properties cannot be read: {exc}") from None


def returns_of(delivery: Delivery) -> int:
    """How often the broker says that this copy came back; 0 when it does not say.

    From RabbitMQ 4.3 on, what was nacked or held longer than the consumer timeout is left out.
    """
    return _counted(delivery, _RETURNS)


def acquisitions_of(delivery: Delivery) -> int:
    """How often the broker says that somebody had this copy before, whatever became of it; 0 before RabbitMQ 4.3."""
    return _counted(delivery, _ACQUIRED)


def _counted(delivery: Delivery, name: str) -> int:
    try:
        headers = decode_properties(delivery.properties).headers or _NOTHING
    except ValueError:
        return 0
    count = headers.get(name)
    return count if type(count) is int and count > 0 else 0


def written_by_sender(delivery: Delivery, envelope: MessageEnvelope) -> tuple[int, list[str]]:
    """Bytes of a readable delivery's properties without what the broker and earlier deliveries added, and the large headers
    that its `envelope` does not carry."""
    sizes = header_sizes(delivery.properties)
    added = sum(size for name, size in sizes.items() if name.startswith("x-") or name in _ADDED)
    ours = max(0, sizes.get("rockbot-history", 0) - _OUR_HISTORY)
    unread = [
        f"{name[:80]} ({size} bytes)"
        for name, size in sorted(sizes.items(), key=lambda header: -header[1])
        if size > 1024 and name not in envelope.headers and _is_free(name)
    ]
    return len(delivery.properties) - added + ours, unread


def decode(delivery: Delivery, ids: IdSource, *, own_user: str | None) -> MessageEnvelope:
    """The envelope of a delivery.

    A message that carries no `rockbot-schema-version` header is foreign: its identity is derived from what it does carry, and
    `ids` is asked only when that is nothing. A topic header counts only when the message came by queue name, and the
    user kept by an earlier hand only when that hand was `own_user`.

    Raises:
        Undecodable: the property list cannot be taken apart, or the body is no CloudEvent although it claims to be.
    """
    return envelope_of(delivery, properties_of(delivery), ids, own_user=own_user)


def envelope_of(delivery: Delivery, properties: Properties, ids: IdSource, *, own_user: str | None) -> MessageEnvelope:
    """As `decode`, of a delivery whose property list was taken apart already.

    Raises:
        Undecodable: the body is no CloudEvent although it claims to be.
    """
    headers = properties.headers or _NOTHING
    schema = headers.get(_SCHEMA)
    if type(schema) is int and properties.message_id:
        return _envelope(delivery, properties, headers, properties.message_id, schema, own_user)
    return _foreign(delivery, properties, headers, ids, own_user)


def _foreign(
    delivery: Delivery, properties: Properties, headers: Mapping[str, Any], ids: IdSource, own_user: str | None
) -> MessageEnvelope:
    taken: frozenset[str] = frozenset()
    event = cloudevents.read_structured(properties.content_type, delivery.body)
    if event is None and (found := cloudevents.read_binary(headers)):
        event, taken = found
    message_id = properties.message_id
    publisher = properties.user_id or properties.app_id
    if event is not None:
        message_id = event.id or message_id
        publisher = properties.user_id or event.source or properties.app_id
        headers = {name: value for name, value in headers.items() if name not in taken}
    schema = headers.get(_SCHEMA)
    draft = _envelope(delivery, properties, headers, "", schema if type(schema) is int else SCHEMA_VERSION, own_user)
    if event is not None:
        draft = draft.replace(
            type=event.type or draft.type,
            source=event.source or draft.source,
            timestamp_ms=draft.timestamp_ms if event.timestamp_ms is None else event.timestamp_ms,
            content_type=event.content_type or draft.content_type,
            correlation_id=event.correlation_id or draft.correlation_id,
            traceparent=event.traceparent or draft.traceparent,
            tracestate=event.tracestate or draft.tracestate,
            body=draft.body if event.body is None else event.body,
        )
    identity = foreign_id(
        publisher=publisher,
        topic=draft.topic,
        message_id=message_id,
        reply_to=properties.reply_to,
        correlation_id=properties.correlation_id,
        body=delivery.body,
        tenant=draft.tenant,
    )
    foreign = message_id[:_LONGEST_ID] if message_id else None
    return draft.replace(message_id=identity or ids.new_id(), foreign_id=foreign)


def _envelope(
    delivery: Delivery,
    properties: Properties,
    headers: Mapping[str, Any],
    message_id: str,
    schema: int,
    own_user: str | None,
) -> MessageEnvelope:
    def text(name: str) -> str | None:
        value = headers.get(name)
        return value if type(value) is str and value else None

    def number(name: str) -> int | None:
        value = headers.get(name)
        # AMQP's timestamps are unsigned; what 64 bits with a sign cannot say is no instant and no store takes it.
        return value if type(value) is int and value < _BEYOND else None

    def trace(name: str) -> str | None:
        value = text(name)
        return None if value is not None and len(value) > _LONGEST_TRACE else value

    # Ternaries instead of calls: most headers are absent, and this runs for every message.
    history = text("rockbot-history") if "rockbot-history" in headers else None
    return_topic = text("rockbot-return-topic") if "rockbot-return-topic" in headers else None
    user = properties.user_id
    if user is not None and user == own_user and _USER in headers:
        user = text(_USER)
    return MessageEnvelope(
        topic=delivery.routing_key if delivery.exchange else text(_TOPIC) or delivery.routing_key,
        body=delivery.body,
        message_id=message_id,
        type=properties.type or "",
        source=properties.app_id or "",
        timestamp_ms=_milliseconds(properties.timestamp),
        content_type=properties.content_type or "application/json",
        tenant=text("rockbot-tenant") or DEFAULT_TENANT,
        schema_version=schema,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        destination=text("rockbot-destination") if "rockbot-destination" in headers else None,
        causation_id=text("rockbot-causation-id") if "rockbot-causation-id" in headers else None,
        conversation_id=text("rockbot-conversation-id") if "rockbot-conversation-id" in headers else None,
        root_task_id=text("rockbot-root-task-id") if "rockbot-root-task-id" in headers else None,
        deadline_ms=number("rockbot-deadline") if "rockbot-deadline" in headers else None,
        attempt=max(1, number("rockbot-attempt") or 1) if "rockbot-attempt" in headers else 1,
        handbacks=max(0, number("rockbot-handbacks") or 0) if "rockbot-handbacks" in headers else 0,
        due_ms=number("rockbot-due") if "rockbot-due" in headers else None,
        first_failed_ms=number("rockbot-first-failed") if "rockbot-first-failed" in headers else None,
        return_address=ReturnAddress(return_topic, text("rockbot-return-token") or "") if return_topic else None,
        user_id=user,
        traceparent=trace("traceparent") if "traceparent" in headers else None,
        tracestate=trace("tracestate") if "tracestate" in headers else None,
        durable=properties.delivery_mode != 1,
        redelivered=delivery.redelivered,
        returns=max(0, number(_RETURNS) or 0) if delivery.redelivered else 0,
        claim=text("rockbot-claim") if "rockbot-claim" in headers else None,
        signature=text("rockbot-signature") if "rockbot-signature" in headers else None,
        foreign_id=(text(_FOREIGN) or "")[:_LONGEST_ID] or None if _FOREIGN in headers else None,
        history=tuple(history.split("\n")) if history else (),
        headers=_free(headers) if headers else _NO_HEADERS,
    )


def _is_free(name: str) -> bool:
    return not name.startswith((HEADER_PREFIX, "x-")) and name not in _NOT_FREE


def _free(headers: Mapping[str, Any]) -> Mapping[str, HeaderValue]:
    free = {name: value for name, value in headers.items() if _is_free(name) and type(value) in _SCALARS}
    return MappingProxyType(free) if free else _NO_HEADERS


def _milliseconds(timestamp: int | None) -> int:
    """AMQP counts seconds; who sends milli-, micro- or nanoseconds is understood by the size of the number."""
    if not timestamp:
        return 0
    if timestamp < 10**11:
        return timestamp * 1000
    while timestamp >= 10**14:
        timestamp //= 1000
    return timestamp


def to_properties(
    envelope: MessageEnvelope,
    *,
    user: str | None,
    by_queue: bool = False,
    passed_on: bool = False,
    extra: Mapping[str, HeaderValue] = _NO_HEADERS,
) -> Properties:
    """The property list of `envelope`.

    Args:
        envelope: the message.
        user: the user of this connection, as its signature; None for none.
        by_queue: it goes past the exchanges, so its topic must travel in a header.
        passed_on: it is a delivery on its way to a delay or dead-letter queue and back: the user the broker validated
            then is kept beside our own signature, and it is stored durably.
        extra: further headers.
    """
    headers: dict[str, Any] = {_SCHEMA: envelope.schema_version, "rockbot-tenant": envelope.tenant}
    if by_queue:
        headers[_TOPIC] = envelope.topic
    if envelope.causation_id is not None:
        headers["rockbot-causation-id"] = envelope.causation_id
    if envelope.conversation_id is not None:
        headers["rockbot-conversation-id"] = envelope.conversation_id
    if envelope.root_task_id is not None:
        headers["rockbot-root-task-id"] = envelope.root_task_id
    if envelope.destination is not None:
        headers["rockbot-destination"] = envelope.destination
    if envelope.deadline_ms is not None:
        headers["rockbot-deadline"] = envelope.deadline_ms
    if envelope.attempt != 1:
        headers["rockbot-attempt"] = envelope.attempt
    if envelope.handbacks:
        headers["rockbot-handbacks"] = envelope.handbacks
    if envelope.due_ms is not None:
        headers["rockbot-due"] = envelope.due_ms
    if envelope.first_failed_ms is not None:
        headers["rockbot-first-failed"] = envelope.first_failed_ms
    if envelope.claim is not None:
        headers["rockbot-claim"] = envelope.claim
    if envelope.signature is not None:
        headers["rockbot-signature"] = envelope.signature
    if envelope.foreign_id is not None:
        headers[_FOREIGN] = envelope.foreign_id
    if envelope.return_address is not None:
        headers["rockbot-return-topic"] = envelope.return_address.topic
        headers["rockbot-return-token"] = envelope.return_address.token
    if envelope.history:
        headers["rockbot-history"] = "\n".join(envelope.history)
    if envelope.traceparent is not None:
        headers["traceparent"] = envelope.traceparent
    if envelope.tracestate is not None:
        headers["tracestate"] = envelope.tracestate
    if passed_on and user is not None and envelope.user_id != user:
        # Nobody known stays nobody known: what passes through our hands must not become ours to vouch for.
        headers[_USER] = envelope.user_id or ""
    if envelope.headers:
        # What only the broker or this package may say does not travel as somebody's free header.
        headers.update((name, value) for name, value in envelope.headers.items() if _is_free(name))
    headers.update(extra)
    return Properties(
        content_type=envelope.content_type,
        headers=headers,
        delivery_mode=2 if envelope.durable or passed_on else 1,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        message_id=envelope.message_id,
        timestamp=envelope.timestamp_ms // 1000 or None,
        type=envelope.type or None,
        user_id=user,
        app_id=envelope.source or None,
    )
