"""The registry: which type name means which event, and which event a bare topic carries.

It is built once at start from the events of the host and its handlers; the generated wire documents come from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, final

from pydantic import ValidationError

from rockbot.events.event import Event
from rockbot_messaging.topics import TopicPattern

__all__ = ["EventRegistry", "InvalidEvent", "UnknownType", "explain"]

#: Some clients put it before UTF-8; RFC 8259 (section 8.1) lets readers ignore it.
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"


class UnknownType(Exception):
    """No registered event has this type name, or none travels by this topic."""


class InvalidEvent(Exception):
    """A body is not what its type says; the text names the fields and never quotes the whole body."""


@final
class EventRegistry:
    """Immutable after construction."""

    def __init__(self, events: Iterable[type[Event]]) -> None:
        self._types: dict[str, type[Event]] = {}
        self._patterns: list[tuple[TopicPattern, type[Event]]] = []
        for event in dict.fromkeys(events):
            if (other := self._types.get(event.type_name)) is not None:
                raise ValueError(
                    f"two events are named {event.type_name!r}: {other.__qualname__}, {event.__qualname__}"
                )
            self._types[event.type_name] = event
            self._patterns.extend((TopicPattern(pattern), event) for pattern in event.topics)

    def __iter__(self) -> Iterator[type[Event]]:
        return iter(self._types.values())

    def __contains__(self, event: type[Event]) -> bool:
        return self._types.get(event.type_name) is event

    def resolve(self, type_name: str, topic: str) -> type[Event]:
        """The event class for a type name, or for the topic when the message names no type.

        Raises:
            UnknownType: there is none.
        """
        if type_name:
            event = self._types.get(type_name)
            if event is None:
                raise UnknownType(f"no event is named {type_name!r} (topic {topic!r})")
            return event
        for pattern, event in self._patterns:
            if pattern.matches(topic):
                return event
        raise UnknownType(f"the message names no type, and topic {topic!r} implies none")

    def decode(self, event: type[Event], body: bytes) -> Event:
        """The typed body.

        Raises:
            InvalidEvent: it is empty, compressed, not UTF-8, not JSON, or misses or mistypes fields.
        """
        if not body:
            raise InvalidEvent(f"the body is empty; {event.type_name} needs a JSON object")
        try:
            return event.model_validate_json(body.removeprefix(_BYTE_ORDER_MARK))
        except ValidationError as exc:
            raise InvalidEvent(f"the body is no {event.type_name}: {_encoding(body) or explain(exc)}") from exc


def _encoding(body: bytes) -> str:
    """Why these bytes are no text; empty when they are."""
    if body.startswith(_GZIP):
        return "it is compressed (gzip); send it uncompressed"
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        return f"it is not UTF-8 (byte 0x{body[exc.start]:02x} at position {exc.start}); JSON is sent as UTF-8"
    return ""


def explain(exc: ValidationError) -> str:
    """What is wrong with which fields, without quoting any value; at most five of them."""
    problems = []
    for error in exc.errors(include_url=False, include_input=False)[:5]:
        where = ".".join(str(part) for part in error["loc"])
        message = error["msg"]
        if error["type"] == "union_tag_invalid":  # the one text that quotes what it read
            message = (
                f"Input should have one of these as {error['ctx']['discriminator']}: {error['ctx']['expected_tags']}"
            )
        problems.append((f"{where}: {message}" if where else message)[:300])
    more = exc.error_count() - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")
