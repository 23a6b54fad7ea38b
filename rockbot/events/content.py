"""Content: what people, models and tools say to each other, as a list of parts.

One vocabulary for tasks, transcripts, tool results and answers, so that an image or a file needs no new message type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "ContentPart",
    "FilePart",
    "ImagePart",
    "JsonPart",
    "Message",
    "MessagePart",
    "TextPart",
    "ThinkingPart",
    "ToolCallPart",
    "ToolResultPart",
    "Weight",
    "origins_of",
    "stamped",
    "text_of",
]


class _Part(BaseModel):
    """`origin` is where the content came from: ``user``, ``model``, ``tool:<name>``, ``web``, ``agent:<name>``, or not said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    origin: Annotated[str | None, BeforeValidator(lambda given: given[:100] if isinstance(given, str) else None)] = None


class TextPart(_Part):
    """Plain text or Markdown."""

    kind: Literal["text"] = "text"
    text: str


class ImagePart(_Part):
    """An image, either inline (`data`, base64) or by address (`url`)."""

    kind: Literal["image"] = "image"
    media_type: str
    data: str | None = None
    url: str | None = None


class FilePart(_Part):
    """A file by reference; `sha256` is its content's digest in hex when it is known."""

    kind: Literal["file"] = "file"
    uri: str
    media_type: str = "application/octet-stream"
    name: str = ""
    size: int | None = None
    sha256: str | None = None


class JsonPart(_Part):
    """Structured data."""

    kind: Literal["json"] = "json"
    data: Any = None  # null travels as an absent field


ContentPart = Annotated[TextPart | ImagePart | FilePart | JsonPart, Field(discriminator="kind")]


class ThinkingPart(_Part):
    """A model's reasoning in its provider's own form; goes back to that provider unchanged and is shown to nobody else."""

    kind: Literal["thinking"] = "thinking"
    provider: str
    data: dict[str, Any]


class ToolCallPart(_Part):
    """A model asks for a tool. `call_id` is the model's id, unique within one model reply.

    `problem` is empty, or says why what the model wrote cannot be read as arguments: then no tool is called, and the model is
    told.
    """

    kind: Literal["tool_call"] = "tool_call"
    call_id: str
    tool: str
    arguments: dict[str, Any]
    problem: str = ""


class ToolResultPart(_Part):
    """What a tool answered to the call of that id."""

    kind: Literal["tool_result"] = "tool_result"
    call_id: str
    parts: tuple[ContentPart, ...]
    is_error: bool = False


MessagePart = Annotated[
    TextPart | ImagePart | FilePart | JsonPart | ThinkingPart | ToolCallPart | ToolResultPart,
    Field(discriminator="kind"),
]


@final
@dataclass(frozen=True, slots=True)
class Weight:
    """What a message's JSON weighs: its bytes; and apart from what `images` travel inline, its ASCII and other characters."""

    size: int
    plain: int
    other: int
    images: int


class Message(BaseModel):
    """One message of a transcript. Tool results travel in a `user` message, all those of one model reply together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["user", "assistant"]
    parts: tuple[MessagePart, ...]

    @property
    def text(self) -> str:
        """Its text parts, joined by newlines."""
        return text_of(self.parts)

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The tool calls in it, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))

    @cached_property
    def weight(self) -> Weight:
        """What it weighs as JSON. Every step asks for the weights of a whole transcript, and a message never changes."""
        text = self.model_dump_json(exclude_none=True)
        size = len(text) if text.isascii() else len(text.encode())
        inner = [part for result in self.parts if isinstance(result, ToolResultPart) for part in result.parts]
        images = [part.data for part in (*self.parts, *inner) if isinstance(part, ImagePart) and part.data]
        for data in images:
            text = text.replace(data, "", 1)
        plain = len(text) if text.isascii() else sum(map(str.isascii, text))
        return Weight(size=size, plain=plain, other=len(text) - plain, images=len(images))

    def __copy__(self) -> Message:
        copied = super().__copy__()
        copied.__dict__.pop("weight", None)  # a copy may be given other parts
        return copied


PartT = TypeVar("PartT", bound=_Part)


def stamped(parts: Iterable[PartT], origin: str) -> tuple[PartT, ...]:
    """The parts, those that do not say where they came from with this origin."""
    return tuple(part if part.origin else part.model_copy(update={"origin": origin}) for part in parts)


def origins_of(parts: Iterable[object], *, otherwise: str = "") -> frozenset[str]:
    """Where the content of these parts came from; of those that do not say so, it is `otherwise`."""
    found = (part.origin or otherwise for part in parts if isinstance(part, _Part))
    return frozenset(origin for origin in found if origin)


def text_of(parts: Iterable[object]) -> str:
    """The text parts among `parts`, joined by newlines."""
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))
