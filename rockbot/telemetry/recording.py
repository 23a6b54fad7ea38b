"""Spans while they are open: ours, because a span of the SDK costs several times what a step of a turn has to spare.

They are spans of OpenTelemetry's API, so what others set on the current one (`get_current_span().set_attribute`) is kept.
Record 38 has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any, Final, Protocol, final

from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from rockbot.telemetry import semconv
from rockbot_messaging.tracing import Attributes

__all__ = ["Around", "Recorder", "Recording"]

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_NO_STATE: Final = TraceState()


class Around(Protocol):
    """What a span can hang under: the context of one elsewhere, or a recording of this process."""

    @property
    def trace_id(self) -> int: ...
    @property
    def span_id(self) -> int: ...
    @property
    def is_remote(self) -> bool: ...
    @property
    def trace_flags(self) -> TraceFlags: ...
    @property
    def trace_state(self) -> TraceState: ...


@final
class Recorder:
    """Begins spans; `ended` gets those that have ended and are recorded, and must not raise.

    A span with a parent is recorded if its parent is; of the traces that begin here, the part `sample_ratio`.
    """

    def __init__(self, ended: Callable[[Recording], None], *, sample_ratio: float) -> None:
        self.ended = ended
        self._below = round(sample_ratio * 2**64)
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, no secrets

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: Around | None,
        *,
        attributes: dict[str, Any],
        same: bytes = b"",
        linked: bool = False,
        span_id: int = 0,
        began_ns: int = 0,
    ) -> Recording:
        """A span that has begun, now or then; with an id that others had to know before, or one of its own.

        `same` are attributes in bytes already, for what many spans say alike; `linked` links it to its parent too.
        """
        bits = self._bits
        if parent is not None:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            trace_id, state = bits(128) or 1, _NO_STATE
            flags = _SAMPLED if trace_id & 0xFFFF_FFFF_FFFF_FFFF < self._below else _NOT_SAMPLED
        return Recording(
            self.ended,
            name,
            kind,
            parent,
            trace_id,
            span_id or bits(64) or 1,
            flags,
            state,
            attributes,
            same,
            linked,
            began_ns or time_ns(),
        )


@final
class Recording(Span):
    """A span that is open; implements `rockbot_messaging.tracing.Span` and OpenTelemetry's."""

    is_remote: Final = False

    def __init__(
        self,
        ended: Callable[[Recording], None],
        name: str,
        kind: SpanKind,
        parent: Around | None,
        trace_id: int,
        span_id: int,
        trace_flags: TraceFlags,
        trace_state: TraceState,
        attributes: dict[str, Any],
        same: bytes,
        linked: bool,
        began_ns: int,
    ) -> None:
        self._ended = ended
        self.name = name
        self.kind = kind
        self.parent = parent
        self.trace_id = trace_id
        self.span_id = span_id
        self.trace_flags = trace_flags
        self.trace_state = trace_state
        self.attributes = attributes
        self.same = same
        self.began_ns = began_ns
        self.ended_ns = 0
        self.links: tuple[tuple[Around, Mapping[str, Any]], ...] = ((parent, {}),) if linked and parent else ()
        self.events: tuple[tuple[str, int, Mapping[str, Any]], ...] = ()
        self.status = StatusCode.UNSET
        self.description = ""

    def set(self, attributes: Attributes, /) -> None:
        """Add attributes."""
        self.attributes.update(attributes)

    def failed(self, error_type: str, /) -> None:
        """Say that what it spans failed, and how in one word."""
        self.attributes[semconv.ERROR_TYPE] = error_type
        self.status = StatusCode.ERROR

    def end(self, end_time: int | None = None) -> None:
        """It is over, now or since then. Only the first call counts."""
        if not self.ended_ns:
            self.ended_ns = end_time or time_ns()
            if self.trace_flags.sampled:
                self._ended(self)

    def get_span_context(self) -> SpanContext:
        """Its ids, as OpenTelemetry passes them on."""
        return SpanContext(self.trace_id, self.span_id, False, self.trace_flags, self.trace_state)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        self.attributes.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Add an attribute."""
        self.attributes[key] = value

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Note an event, now or then."""
        self.events += ((name, timestamp or time_ns(), attributes or {}),)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Link it to another span."""
        if context.is_valid:
            self.links += ((context, attributes or {}),)

    def update_name(self, name: str) -> None:
        """Call it otherwise."""
        self.name = name

    def is_recording(self) -> bool:
        """Whether it is kept and not over yet."""
        return self.trace_flags.sampled and not self.ended_ns

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say whether what it spans succeeded; "unset" leaves what was said before, and "ok" is the last word."""
        code = status.status_code if isinstance(status, Status) else status
        if code is not StatusCode.UNSET and self.status is not StatusCode.OK:
            told = status.description if isinstance(status, Status) else description
            self.status = code
            self.description = told or "" if code is StatusCode.ERROR else ""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - deprecated by the conventions
    ) -> None:
        """Note an exception as an event."""
        said = {semconv.EXCEPTION_TYPE: type(exception).__qualname__, semconv.EXCEPTION_MESSAGE: str(exception)}
        self.add_event(semconv.EXCEPTION, {**said, **(attributes or {})}, timestamp)
