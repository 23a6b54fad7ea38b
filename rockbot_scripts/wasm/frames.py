"""The bytes between supervisor and worker: a 4-byte big-endian length, then one JSON object in UTF-8.

Both sides use this module, and neither trusts the other: a length above the limit, bytes that are not JSON, or JSON
that is not an object end the conversation with a `FrameError`.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, Final

from rockbot_scripts.errors import FrameError

HEADER: Final = struct.Struct(">I")
MAX_FRAME_BYTES: Final = 128 * 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """Return one frame; raises FrameError when the message is larger than a frame may be."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME_BYTES} bytes")
    return HEADER.pack(len(body)) + body


def size(header: bytes, *, limit: int = MAX_FRAME_BYTES) -> int:
    """Return the length that a header announces; raises FrameError when it is above `limit` or cut short."""
    if len(header) != HEADER.size:
        raise FrameError(f"a frame header has {HEADER.size} bytes, got {len(header)}")
    (length,) = HEADER.unpack(header)
    if length > limit:
        raise FrameError(f"a frame of {length} bytes was announced; the limit is {limit} bytes")
    return int(length)


def decode(body: bytes) -> dict[str, Any]:
    """Return the object in the body of a frame; raises FrameError when there is none."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as failure:
        raise FrameError(f"a frame of {len(body)} bytes is not JSON: {type(failure).__name__}") from None
    if not isinstance(message, dict):
        raise FrameError(f"a frame must hold a JSON object, not {type(message).__name__}")
    return message


def read_blocking(fd: int) -> dict[str, Any] | None:
    """Read one frame from a descriptor; None when the other side has closed it between two frames."""
    header = _read_exactly(fd, HEADER.size)
    if not header:
        return None
    length = size(header)
    body = _read_exactly(fd, length)
    if len(body) != length:
        raise FrameError(f"a frame of {length} bytes ended after {len(body)} bytes")
    return decode(body)


def write_blocking(fd: int, message: dict[str, Any]) -> None:
    """Write one frame to a descriptor."""
    view = memoryview(encode(message))
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, count: int) -> bytes:
    pieces: list[bytes] = []
    while count > 0:
        piece = os.read(fd, min(count, 1 << 20))
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
