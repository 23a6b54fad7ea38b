"""From what a tool returned to what a model reads: parts with their origin, bytes as files, and never more than the limit.

What is over the limit is not lost: the whole of it becomes an artifact, the model sees both ends and an exact count of what is
between them, and `read_artifact` pages through the rest.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from rockbot.events.content import ContentPart, FilePart, ImagePart, JsonPart, TextPart, stamped
from rockbot_messaging.artifacts import ArtifactStore, Reference
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["File", "content_of", "fitted", "shorten", "store_file"]

_PARTS: Final = (TextPart, ImagePart, FilePart, JsonPart)
#: Characters of an inline image; a larger one travels by reference.
_LARGEST_IMAGE: Final = 1 << 20
#: Room kept for the marker itself.
_MARKER_CHARS: Final = 64


@final
@dataclass(frozen=True, slots=True)
class File:
    """Bytes or text that a tool returns as a file: stored as an artifact, told to the model by name, type and size."""

    data: bytes | str
    media_type: str = ""
    name: str = ""


async def store_file(file: File, artifacts: ArtifactStore, *, tenant: str = DEFAULT_TENANT) -> FilePart:
    """The part that stands for a file, stored.

    Raises:
        ArtifactsUnavailable: it was not stored.
    """
    data = file.data.encode("utf-8", "replace") if isinstance(file.data, str) else file.data
    reference = await artifacts.put(data, tenant=tenant)
    default = "text/plain; charset=utf-8" if isinstance(file.data, str) else "application/octet-stream"
    return FilePart(
        uri=f"artifact:{reference}",
        media_type=file.media_type or default,
        name=file.name,
        size=len(data),
        sha256=Reference.parse(reference).digest,
    )


async def content_of(value: Any, artifacts: ArtifactStore, *, tenant: str = DEFAULT_TENANT) -> tuple[ContentPart, ...]:
    """What a tool returned as parts; its files and large images are stored.

    Text is text, parts are themselves, bytes are a file, a list that holds parts or files is its items; None says that it is
    done; everything else is JSON.

    Raises:
        TypeError: something in it is no JSON; the text names the type. ArtifactsUnavailable.
    """
    items = list(value) if isinstance(value, list | tuple) and any(map(_is_part, value)) else [value]
    return tuple([await _part(item, artifacts, tenant) for item in items])


async def fitted(
    parts: Iterable[ContentPart], limit: int, artifacts: ArtifactStore, *, origin: str, tenant: str = DEFAULT_TENANT
) -> tuple[ContentPart, ...]:
    """The parts with their origin, and with at most `limit` characters of text: what is over it is stored and shortened.

    Raises:
        ArtifactsUnavailable: what is too long was not stored.
    """
    whole = stamped(parts, origin)
    said = [(text, part.origin) for part in whole if (text := _text(part)) is not None]
    text = "\n".join(text for text, _ in said)
    if len(text) <= limit:
        return whole
    structured = len(said) == 1 and any(isinstance(part, JsonPart) for part in whole)
    name, kind = ("result.json", "application/json") if structured else ("result.txt", "")
    file = await store_file(File(text, media_type=kind, name=name), artifacts, tenant=tenant)
    first, *further = dict.fromkeys(where for _, where in said)
    # The file is told once for each origin of what was put together: none of them may be forgotten.
    files = [file.model_copy(update={"origin": where}) for where in further or [first]]
    others = [part for part in whole if _text(part) is None]
    return (TextPart(text=shorten(text, limit), origin=first), *files, *others)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: head and tail stay, and a marker between them says how much is missing."""
    if len(text) <= limit:
        return text
    kept = limit - _MARKER_CHARS
    tail = kept // 4
    head = kept - tail
    return f"{text[:head]}\n[truncated, {len(text) - kept} chars omitted]\n{text[len(text) - tail :]}"


def _is_part(value: object) -> bool:
    return isinstance(value, (*_PARTS, File, bytes))


async def _part(value: Any, artifacts: ArtifactStore, tenant: str) -> ContentPart:
    match value:
        case None:
            return TextPart(text="done")
        case str():
            return TextPart(text=value)
        case bytes():
            return await store_file(File(value), artifacts, tenant=tenant)
        case File():
            return await store_file(value, artifacts, tenant=tenant)
        case ImagePart(data=str() as data) if len(data) > _LARGEST_IMAGE:
            return await _stored_image(value, data, artifacts, tenant)
        case TextPart() | ImagePart() | FilePart() | JsonPart():
            return value
    return JsonPart(data=_json(value))


async def _stored_image(image: ImagePart, data: str, artifacts: ArtifactStore, tenant: str) -> ContentPart:
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise TypeError("an ImagePart's data is no base64") from None
    file = await store_file(File(content, media_type=image.media_type, name="image"), artifacts, tenant=tenant)
    return file.model_copy(update={"origin": image.origin})


def _json(value: Any) -> Any:
    try:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else to_jsonable_python(value)
    except PydanticSerializationError as exc:
        raise TypeError(f"the tool returned a {type(value).__name__} that is no JSON: {exc}") from None


def _text(part: ContentPart) -> str | None:
    match part:
        case TextPart():
            return part.text
        case JsonPart():
            return json.dumps(part.data, ensure_ascii=False)
    return None
