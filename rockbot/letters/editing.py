"""Mending one letter: what may be changed, with how much care, and whether what comes of it is valid for its type.

What says who the message is, to whom it belongs and where its answer goes cannot be changed at all: a turn would wait for
ever, or a tenant read what is not its own. What others decide by (type, addresses, deadline) needs `careful`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from rockbot.events.registry import EventRegistry, InvalidEvent, UnknownType
from rockbot.letters.models import Edit
from rockbot.operators.faults import InvalidRequest
from rockbot.operators.models import body_bytes
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Letter
from rockbot_messaging.settlement import sent_on

__all__ = ["LOCKED", "SENSITIVE", "changed_by", "mended"]

LOCKED: Final = (
    "message_id",
    "tenant",
    "causation_id",
    "conversation_id",
    "root_task_id",
    "return_address",
    "topic",
)
SENSITIVE: Final = ("type", "content_type", "reply_to", "correlation_id", "deadline_ms")

_RESERVED: Final = ("x-", "rockbot-")
#: Other names that providers do not carry as free headers.
_NOT_FREE: Final = frozenset({"traceparent", "tracestate", "cc", "bcc"})


def mended(
    letter: Letter, edit: Edit, *, now_ms: int, namespace: str, registry: EventRegistry | None
) -> MessageEnvelope:
    """The message of a letter as it is sent on after an edit, unsigned.

    Raises:
        InvalidRequest: the edit changes nothing, something sensitive without `careful`, or makes the message invalid.
    """
    changes = _sensitive(edit, now_ms, namespace)
    if changes and not edit.careful:
        raise InvalidRequest(
            f"{', '.join(sorted(changes))}: whoever receives the message decides by it; "
            "say that you mean it (careful) to change it"
        )
    if edit.headers is not None:
        changes["headers"] = _headers(edit)
    if edit.body is not None:
        changes["body"] = _body(edit)
        changes["claim"] = None
    if not changes:
        raise InvalidRequest("the edit changes nothing; replay sends a letter on as it is")
    message = sent_on(letter, now_ms=now_ms).replace(**changes, signature=None)
    has_body = edit.body is not None or letter.envelope.claim is None
    if registry is not None and not edit.unchecked and has_body and ("body" in changes or "type" in changes):
        _check(message, registry)
    return message


def changed_by(edit: Edit) -> list[str]:
    """Names of what an edit changes."""
    return [name for name in ("body", "headers", *SENSITIVE) if getattr(edit, name) is not None]


def _sensitive(edit: Edit, now_ms: int, namespace: str) -> dict[str, Any]:
    given = {name: getattr(edit, name) for name in SENSITIVE}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("reply_to", "correlation_id"):
        if changes.get(name) == "":
            changes[name] = None
    reply_to = changes.get("reply_to")
    if reply_to and reply_to.startswith(f"{namespace}.") and reply_to.split(".")[1] not in ("reply", "watch"):
        raise InvalidRequest(f"reply_to {reply_to!r} names a queue of this host; use a reply queue of your own")
    deadline_ms = changes.get("deadline_ms")
    if deadline_ms is not None and deadline_ms <= now_ms:
        raise InvalidRequest(f"deadline_ms {deadline_ms} has passed: the message would be answered as expired")
    return changes


def _headers(edit: Edit) -> MappingProxyType[str, Any]:
    for name in edit.headers or {}:
        if not name or name.lower().startswith(_RESERVED) or name.lower() in _NOT_FREE:
            raise InvalidRequest(
                f"header {name!r} cannot be set: names beginning with x- or rockbot- are reserved, and so are "
                "traceparent, tracestate, CC and BCC"
            )
    return MappingProxyType(dict(edit.headers or {}))


def _body(edit: Edit) -> bytes:
    try:
        return body_bytes(edit.body or "", edit.body_encoding)
    except ValueError as exc:
        what = "is not base64" if edit.body_encoding == "base64" else "is no text that UTF-8 can carry"
        raise InvalidRequest(f"the body {what}: {exc}") from None


def _check(message: MessageEnvelope, registry: EventRegistry) -> None:
    try:
        event = registry.resolve(message.type, message.topic)
    except UnknownType:
        return
    try:
        registry.decode(event, message.body)
    except InvalidEvent as exc:
        raise InvalidRequest(f"{exc}. The letter was not changed; mend the body, or send it on unchecked") from None
