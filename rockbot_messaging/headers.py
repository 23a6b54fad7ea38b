"""How large the headers of a message may be, and what is left of them when they are larger.

A content header must fit into one frame of the broker, or the broker ends the connection of whoever sends it; and what a
message carries beside its body is carried again by every retry and every dead letter. So there is a limit far below the
frame's. It bounds what the sender wrote: what a retry adds (its counters, its history) never makes a message too large.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import HeadersTooLarge
from rockbot_messaging.verdicts import DeadLetter

__all__ = [
    "DEFAULT_MAX_HEADER_BYTES",
    "MAX_PROPERTY_BYTES",
    "check_headers",
    "header_bytes",
    "may_be_large",
    "refusal",
    "shrunk",
]

DEFAULT_MAX_HEADER_BYTES: Final = 64 * 1024
#: Bytes. RabbitMQ's default frame has 128 KiB; some room is kept for what the broker adds.
MAX_PROPERTY_BYTES: Final = 120 * 1024

#: What every message has: flags, lengths, delivery mode, timestamp, schema version, tenant.
_FIXED: Final = 96
#: What a header costs beside its name and its text, at most.
_PER_HEADER: Final = 10
_TEXTS: Final = attrgetter(
    "message_id", "type", "source", "content_type", "tenant", "correlation_id", "reply_to", "destination", "causation_id",
    "conversation_id", "root_task_id", "traceparent", "tracestate", "claim", "signature",
)  # fmt: skip
#: Fields of any length that a letter can do without.
_DROPPED: Final = (
    "return_address", "conversation_id", "root_task_id", "causation_id", "destination", "claim", "signature",
    "tracestate", "traceparent", "history",
)  # fmt: skip
#: Fields of any length; names of AMQP's own have at most 255 bytes.
_LONG: Final = attrgetter("conversation_id", "root_task_id", "causation_id", "destination", "tracestate", "traceparent")
_NONE_LONG: Final = (None,) * 6
#: Characters of those that cannot be too many together with all the others.
_SURELY_FITS: Final = 500
_NAMED: Final = 5
#: Bytes of a text that are worth keeping.
_WORTH: Final = 256


def header_bytes(envelope: MessageEnvelope) -> int:
    """What all properties and headers of `envelope` take on the wire, within a few hundred bytes; what a retry adds to them
    does not count."""
    size = _FIXED + sum(len(text.encode("utf-8", "replace")) + 30 for text in _TEXTS(envelope) if text)
    if envelope.return_address is not None:
        address = envelope.return_address
        size += len(address.topic) + len(address.token.encode("utf-8", "replace")) + 60
    return size + sum(map(_size, envelope.headers.items())) if envelope.headers else size


def may_be_large(envelope: MessageEnvelope) -> bool:
    """Whether measuring is worth its time: most messages have neither free headers nor a long text anywhere."""
    if envelope.headers:
        return True
    address = envelope.return_address
    texts = _LONG(envelope)
    if address is None and texts == _NONE_LONG:
        return False
    return sum(len(text) for text in texts if text) + (len(address.token) if address else 0) > _SURELY_FITS


def check_headers(size: int, limit: int, topic: str) -> None:
    """Refuse to send what has more than `limit` bytes of headers.

    Raises:
        HeadersTooLarge: it has.
    """
    if size > limit:
        raise HeadersTooLarge(
            f"the headers for {topic!r} have {size} bytes, the limit is {limit}: put large values into the body, or "
            "raise broker.max_header_bytes on both sides"
        )


def shrunk(envelope: MessageEnvelope, limit: int) -> tuple[MessageEnvelope, list[str]]:
    """`envelope` with headers of at most `limit` bytes (at least 4096), and the names of those that were cut or left out.

    The largest free header is cut first; what is cut says so. Fields are dropped only when no free header is left.
    """
    excess = header_bytes(envelope) - limit
    free, cut = dict(envelope.headers), []
    for name, value in sorted(envelope.headers.items(), key=_size, reverse=True):
        if excess <= 0:
            break
        before = _size((name, value))
        cut.append(f"{name[:80]} ({before} bytes)")
        raw = value.encode("utf-8", "replace") if isinstance(value, str) else b""
        note = f"... [{len(raw)} bytes, shortened]"
        kept = len(raw) - excess - len(note)
        if kept >= _WORTH:
            free[name] = raw[:kept].decode("utf-8", "ignore") + note
            excess -= before - _size((name, free[name]))
        else:
            del free[name]
            excess -= before
    changes: dict[str, Any] = {"headers": free}
    for name in _DROPPED:
        if excess <= 0:
            break
        if getattr(envelope, name):
            changes[name] = () if name == "history" else None
            cut.append(name)
            excess = header_bytes(envelope.replace(**changes)) - limit
    return envelope.replace(**changes), cut


def refusal(size: int, limit: int, cut: list[str]) -> DeadLetter:
    """The verdict on a message that came with too large headers, of which these were cut."""
    named = ", ".join(cut[:_NAMED]) + (f" and {len(cut) - _NAMED} more" if len(cut) > _NAMED else "")
    reason = (
        f"the headers have {size} bytes, this receiver takes at most {limit}; shortened or left out: {named or 'none'}"
    )
    return DeadLetter(reason=reason, error_type=HeadersTooLarge.__name__)


def _size(header: tuple[str, HeaderValue]) -> int:
    name, value = header
    size = len(name.encode("utf-8", "replace")) + _PER_HEADER
    return size + len(value.encode("utf-8", "replace")) if isinstance(value, str) else size
