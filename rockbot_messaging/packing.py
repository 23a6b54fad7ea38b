"""Envelopes as bytes, for rows: outbox, embedded queues.

One JSON line with the fields that differ from their defaults, a newline, then the body as it is. Not a wire format:
only this package reads what it wrote; fields it does not know are ignored, so that rows survive a downgrade.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import Undecodable

__all__ = ["pack", "unpack"]

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(MessageEnvelope) if field.name not in ("body", "headers")
}


def pack(envelope: MessageEnvelope) -> bytes:
    """`envelope` as one row."""
    fields: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(envelope, name)
        if value != default:
            fields[name] = [value.topic, value.token] if isinstance(value, ReturnAddress) else value
    if envelope.headers:
        fields["headers"] = dict(envelope.headers)
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n" + envelope.body


def unpack(row: bytes) -> MessageEnvelope:
    """The envelope of a row.

    Raises:
        Undecodable: the row was not written by `pack`.
    """
    head, separator, body = row.partition(b"\n")
    try:
        fields = json.loads(head)
        known = {name: value for name, value in fields.items() if name in _DEFAULTS or name == "headers"}
        if address := known.get("return_address"):
            known["return_address"] = ReturnAddress(*address)
        if "history" in known:
            known["history"] = tuple(known["history"])
        if not separator:
            raise ValueError("no body")
        return MessageEnvelope(body=body, **known)
    except (ValueError, TypeError, AttributeError) as exc:
        raise Undecodable(f"a stored message cannot be read: {exc}") from exc
