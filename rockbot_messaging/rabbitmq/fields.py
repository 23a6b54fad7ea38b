"""AMQP 0-9-1 property lists and field tables as bytes, read tolerantly and written strictly.

The client library turns a property list it dislikes (a timestamp in microseconds, a byte that is no UTF-8) into the
end of the connection; one such message would then come back and end it again. A delivery must be readable whatever its
sender did, so this module reads them itself. Grammar: AMQP 0-9-1 section 4.2.5.5 with RabbitMQ's type letters.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Properties", "decode_properties", "decode_table", "encode_properties", "encode_table", "header_sizes"]


class Properties(NamedTuple):
    """A content header's property list; None where the sender set nothing. `timestamp` is whatever number came."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


_SHORT_STRINGS: Final = {0, 1, 5, 6, 7, 8, 10, 11, 12, 13}
_HEADERS, _MODE, _PRIORITY, _TIMESTAMP = 2, 3, 4, 9
_COUNT: Final = len(Properties._fields)

_U32: Final = struct.Struct(">I").unpack_from
_U64: Final = struct.Struct(">Q").unpack_from
_TEXT: Final = ord("S")
_FIXED: Final = {
    letter: (struct.Struct(form), struct.calcsize(form))
    for letter, form in {
        "b": ">b", "B": ">B", "s": ">h", "U": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q", "f": ">f",
        "d": ">d", "T": ">Q",
    }.items()
}  # fmt: skip


def decode_properties(data: bytes) -> Properties:
    """The property list that begins at the start of `data` (after class, weight and body size).

    Raises:
        ValueError: it is cut short or its table is malformed.
    """
    try:
        return _decode_properties(data)
    except (struct.error, IndexError) as exc:
        raise ValueError(f"the property list is cut short: {exc}") from None


def _decode_properties(data: bytes) -> Properties:
    flags = (data[0] << 8) | data[1]
    at = 2
    more = flags
    while more & 1:
        # Continuation words announce properties that no version defined; there is nothing to read for them.
        more = (data[at] << 8) | data[at + 1]
        at += 2
    values: list[Any] = [None] * _COUNT
    for index in range(_COUNT):
        if not flags & (0x8000 >> index):
            continue
        if index in _SHORT_STRINGS:
            end = at + 1 + data[at]
            if end > len(data):
                raise ValueError("the property list is cut short")
            # Dropping bad bytes never makes a text longer, so whatever was read can be written again.
            values[index] = data[at + 1 : end].decode("utf-8", "ignore")
            at = end
        elif index == _HEADERS:
            end = at + 4 + _U32(data, at)[0]
            values[index] = decode_table(data[at + 4 : end])
            if end > len(data):
                raise ValueError("the header table is cut short")
            at = end
        elif index == _TIMESTAMP:
            values[index] = _U64(data, at)[0]
            at += 8
        else:
            values[index] = data[at]
            at += 1
    return Properties._make(values)


def header_sizes(data: bytes) -> dict[str, int]:
    """Bytes that each header of a readable property list takes, its name included; a name that comes twice has both."""
    flags = (data[0] << 8) | data[1]
    at, more = 2, flags
    while more & 1:
        more = (data[at] << 8) | data[at + 1]
        at += 2
    for index in range(_HEADERS):
        if flags & (0x8000 >> index):
            at += 1 + data[at]
    sizes: dict[str, int] = {}
    if not flags & (0x8000 >> _HEADERS):
        return sizes
    at, end = at + 4, at + 4 + _U32(data, at)[0]
    while at < end:
        begun, named = at, at + 1 + data[at]
        name = data[at + 1 : named].decode("utf-8", "replace")
        _, at = _decode_value(data, named)
        sizes[name] = sizes.get(name, 0) + at - begun
    return sizes


def decode_table(data: bytes) -> dict[str, Any]:
    """The entries of a field table without its length.

    Byte strings stay bytes when they are no UTF-8; timestamps are integers.

    Raises:
        ValueError: a type letter is unknown or the table ends too early.
    """
    table: dict[str, Any] = {}
    at, size = 0, len(data)
    while at < size:
        end = at + 1 + data[at]
        name = data[at + 1 : end].decode("utf-8", "replace")
        if data[end] == _TEXT:  # nearly all of them
            at = end + 5 + _U32(data, end + 1)[0]
            text = data[end + 5 : at]
            try:
                table[name] = text.decode()
            except UnicodeDecodeError:
                table[name] = text
            continue
        table[name], at = _decode_value(data, end)
    if at > size:
        raise ValueError("a field reaches beyond its table")
    return table


def _decode_value(data: bytes, at: int) -> tuple[Any, int]:
    letter = chr(data[at])
    at += 1
    if letter == "S":
        end = at + 4 + _U32(data, at)[0]
        text = data[at + 4 : end]
        try:
            return text.decode(), end
        except UnicodeDecodeError:
            return text, end
    if letter in _FIXED:
        form, length = _FIXED[letter]
        return form.unpack_from(data, at)[0], at + length
    if letter == "t":
        return data[at] != 0, at + 1
    if letter == "V":
        return None, at
    if letter in "xFA":
        end = at + 4 + _U32(data, at)[0]
        inner = data[at + 4 : end]
        if end > len(data):
            raise ValueError("a field reaches beyond its table")
        if letter == "x":
            return inner, end
        return (decode_table(inner) if letter == "F" else _decode_array(inner)), end
    if letter == "D":
        scale, number = struct.unpack_from(">Bi", data, at)
        return number / 10**scale, at + 5
    raise ValueError(f"unknown field type {letter!r}")


def _decode_array(data: bytes) -> list[Any]:
    items: list[Any] = []
    at = 0
    while at < len(data):
        item, at = _decode_value(data, at)
        items.append(item)
    return items


def encode_properties(properties: Properties) -> bytes:
    """A property list, flags first.

    Raises:
        ValueError: a text is longer than 255 bytes, or a header's name or value cannot be written.
    """
    flags = 0
    parts = [b""]
    value: Any
    for index, value in enumerate(properties):
        if value is None or (index == _HEADERS and not value):
            continue
        flags |= 0x8000 >> index
        if index in _SHORT_STRINGS:
            parts.append(_short_string(value, properties._fields[index]))
        elif index == _HEADERS:
            table = encode_table(value)
            parts.append(struct.pack(">I", len(table)) + table)
        elif index == _TIMESTAMP:
            parts.append(struct.pack(">Q", value))
        else:
            parts.append(bytes((value,)))
    parts[0] = struct.pack(">H", flags)
    return b"".join(parts)


def _short_string(text: str, what: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"{what} has {len(raw)} bytes, AMQP allows 255: {text[:40]!r}...")
    return bytes((len(raw),)) + raw


def encode_table(table: Mapping[str, Any]) -> bytes:
    """A field table without its length; values are text, bytes, integers below 2**63, floats, booleans or None.

    Raises:
        ValueError: a name is longer than 255 bytes or a value is something else.
    """
    parts: list[bytes] = []
    for name, value in table.items():
        parts.append(_short_string(name, "a header's name"))
        if isinstance(value, str):
            raw = value.encode()
            parts.append(b"S" + struct.pack(">I", len(raw)) + raw)
        elif value is None:
            parts.append(b"V")
        elif isinstance(value, bool):
            parts.append(b"t\x01" if value else b"t\x00")
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"header {name!r}: {value} does not fit into 64 bits")
            parts.append(b"l" + struct.pack(">q", value))
        elif isinstance(value, float):
            parts.append(b"d" + struct.pack(">d", value))
        elif isinstance(value, bytes):
            parts.append(b"x" + struct.pack(">I", len(value)) + value)
        else:
            raise ValueError(f"header {name!r} is a {type(value).__name__}: use text, a number, a boolean or None")
    return b"".join(parts)
