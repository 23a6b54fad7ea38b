"""Ended spans as OTLP's bytes, written by hand: the SDK's encoder makes an object of every attribute, which costs too much.

A test compares what is written here with what the SDK's encoder writes. Text that UTF-8 cannot say has question marks: one
bad name must not make a collector refuse the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import StatusCode

from rockbot.telemetry.recording import Recording

__all__ = ["attributes_of_a_span", "encoded", "request"]

#: What a context says of itself in `flags`: that it knows whether it came from elsewhere, and that it did.
_KNOWN: Final = b"\x85\x01" + struct.pack("<I", 0x100)
_REMOTE: Final = b"\x85\x01" + struct.pack("<I", 0x300)
_BYTES: Final = [bytes((number,)) for number in range(128)]
_fixed64: Final = struct.Struct("<Q").pack
_double: Final = struct.Struct("<d").pack
_times: Final = struct.Struct("<BQBQ").pack

_SCOPE: Final = b"\x0a\x09\x0a\x07rockbot"
_OF_SPAN, _OF_EVENT, _OF_LINK = b"\x4a", b"\x1a", b"\x22"


def request(spans: Iterable[bytes], resource: Resource) -> bytes:
    """An `ExportTraceServiceRequest` of encoded spans that are all of one resource."""
    of_resource = _part(b"\x0a", _attributes(b"\x0a", resource.attributes))
    of_resource += _part(b"\x12", _SCOPE + b"".join(spans))
    if resource.schema_url:
        of_resource += _part(b"\x1a", resource.schema_url.encode())
    return _part(b"\x0a", of_resource)


def encoded(span: Recording) -> bytes:
    """One ended span, as a part of its request."""
    parent = span.parent
    parts = [
        b"\x0a\x10%b\x12\x08%b" % (span.trace, span.id),
        _called(span.name, span.kind),
        _KNOWN if parent is None else b"\x22\x08%b%b" % (parent.id, _REMOTE if parent.remote else _KNOWN),
        _times(0x39, span.began_ns, 0x41, span.ended_ns),
        span.same,
    ]
    for name, value in span.attributes.items():
        parts.append(_attribute(_OF_SPAN, name, value))
    for name, at_ns, attributes in span.events:
        event = b"\x09" + _fixed64(at_ns) + _text(b"\x12", name) + _attributes(_OF_EVENT, attributes)
        parts.append(_part(b"\x5a", event))
    for linked, attributes in span.links:
        ids = b"\x0a\x10%b\x12\x08%b\x35%b" % (linked.trace, linked.id, (_REMOTE if linked.remote else _KNOWN)[2:])
        parts.append(_part(b"\x6a", ids + _attributes(_OF_LINK, attributes)))
    if span.state:
        parts.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in span.state.items())))
    if span.status is StatusCode.UNSET:
        parts.append(b"\x7a\x00")
    else:
        told = _text(b"\x12", span.description) if span.description else b""
        parts.append(_part(b"\x7a", told + b"\x18" + _BYTES[span.status.value]))
    return _part(b"\x12", b"".join(parts))


def attributes_of_a_span(attributes: Mapping[str, Any]) -> bytes:
    """Attributes that many spans have alike, written once."""
    return _attributes(_OF_SPAN, attributes)


@lru_cache(maxsize=1024)
def _called(name: str, kind: int) -> bytes:
    return _text(b"\x2a", name) + b"\x30" + _BYTES[kind]


def _attributes(tag: bytes, attributes: Mapping[str, Any]) -> bytes:
    if not attributes:
        return b""
    return b"".join([_attribute(tag, name, value) for name, value in attributes.items()])


def _attribute(tag: bytes, name: str, value: Any) -> bytes:
    named = _named(name)
    if type(value) is str:
        data = value.encode("utf-8", "replace")
        size = len(data)
        length = len(named) + size + 4
        if length < 128:
            # By far the most: every length is one byte.
            return b"%b%c%b\x12%c\x0a%c%b" % (tag, length, named, size + 2, size, data)
    return _part(tag, named + _part(b"\x12", _any(value)))


@lru_cache(maxsize=1024)
def _named(name: str) -> bytes:
    return _text(b"\x0a", name)


def _any(value: object) -> bytes:
    if isinstance(value, str):
        return _text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, tuple | list):
        return _part(b"\x2a", b"".join([_part(b"\x0a", _any(each)) for each in value]))
    if isinstance(value, bytes):
        return _part(b"\x3a", value)
    if isinstance(value, Mapping):
        return _part(b"\x32", _attributes(b"\x0a", {str(key): each for key, each in value.items()}))
    return b"" if value is None else _text(b"\x0a", str(value))


def _text(tag: bytes, text: str) -> bytes:
    return _part(tag, text.encode("utf-8", "replace"))


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
