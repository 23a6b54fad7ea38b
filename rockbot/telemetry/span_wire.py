"""Ended spans as OTLP's bytes, written by hand: the SDK's encoder makes an object of every attribute, which costs too much.

A test compares what is written here with what the SDK's encoder writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

__all__ = ["encoded"]

#: What a context says of itself in `flags`: that it knows whether it came from elsewhere, and that it did.
_KNOWN: Final = struct.pack("<I", 0x100)
_REMOTE: Final = struct.pack("<I", 0x300)
_BYTES: Final = [bytes((number,)) for number in range(128)]
_fixed64: Final = struct.Struct("<Q").pack
_double: Final = struct.Struct("<d").pack


def encoded(spans: Sequence[ReadableSpan], resource: Resource) -> bytes:
    """An `ExportTraceServiceRequest` of spans that are all of one resource and one instrumentation."""
    scope = _part(b"\x0a", _part(b"\x0a", b"rockbot"))
    of_scope = scope + b"".join([_part(b"\x12", _span(span)) for span in spans])
    of_resource = _part(b"\x0a", _attributes(b"\x0a", resource.attributes)) + _part(b"\x12", of_scope)
    if resource.schema_url:
        of_resource += _part(b"\x1a", resource.schema_url.encode())
    return _part(b"\x0a", of_resource)


def _span(span: ReadableSpan) -> bytes:
    context, parent, status = span.context, span.parent, span.status.status_code.value
    assert context is not None
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16), b"\x12\x08", context.span_id.to_bytes(8)]
    if context.trace_state:
        parts.append(_part(b"\x1a", ",".join(f"{key}={value}" for key, value in context.trace_state.items()).encode()))
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8))
    parts.append(_part(b"\x2a", span.name.encode()))
    parts += (
        b"\x30",
        _BYTES[span.kind.value + 1],
        b"\x39",
        _fixed64(span.start_time or 0),
        b"\x41",
        _fixed64(span.end_time or 0),
    )
    parts.append(_attributes(b"\x4a", span.attributes or {}))
    parts += [_part(b"\x5a", _event(event)) for event in span.events]
    parts += [_part(b"\x6a", _link(link)) for link in span.links]
    parts.append(b"\x7a\x02\x18" + _BYTES[status] if status else b"\x7a\x00")
    parts += (b"\x85\x01", _flags(parent))
    return b"".join(parts)


def _event(event: Event) -> bytes:
    return (
        b"\x09"
        + _fixed64(event.timestamp)
        + _part(b"\x12", event.name.encode())
        + _attributes(b"\x1a", event.attributes or {})
    )


def _link(link: Link) -> bytes:
    context = link.context
    return (
        b"\x0a\x10"
        + context.trace_id.to_bytes(16)
        + b"\x12\x08"
        + context.span_id.to_bytes(8)
        + _attributes(b"\x22", link.attributes or {})
        + b"\x35"
        + _flags(context)
    )


def _flags(context: SpanContext | None) -> bytes:
    return _REMOTE if context is not None and context.is_remote else _KNOWN


def _attributes(tag: bytes, attributes: Mapping[str, Any]) -> bytes:
    # Equal numbers of different types are different attributes.
    return b"".join([_attribute(tag, name, value, type(value).__name__) for name, value in attributes.items()])


@lru_cache(maxsize=4096)
def _attribute(tag: bytes, name: str, value: Any, _: str) -> bytes:
    return _part(tag, _part(b"\x0a", name.encode()) + _part(b"\x12", _any(value)))


def _any(value: object) -> bytes:
    if isinstance(value, str):
        return _part(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, Iterable):
        return _part(b"\x2a", b"".join([_part(b"\x0a", _any(each)) for each in value]))
    return _part(b"\x0a", str(value).encode())


def _part(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    if number < 128:
        return _BYTES[number]
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
