"""Spans while they are open: ours, because a span of the SDK costs several times what a step of a turn has to spare.

They are spans of OpenTelemetry's API, so what others set on the current one (`get_current_span().set_attribute`) is kept.
Record 38 has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any, Final, NamedTuple, Protocol, final

from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags, TraceState

from rockbot.telemetry import semconv
from rockbot_messaging.tracing import Attributes

__all__ = ["CLIENT", "CONSUMER", "INTERNAL", "NO_STATE", "PRODUCER", "Around", "Elsewhere", "Recorder", "Recording"]

NO_STATE: Final = TraceState()
#: Kinds of spans, by their numbers in OTLP.
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(1, 6)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)


class Around(Protocol):
    """What a span can hang under: one elsewhere, or a recording of this process. Ids are bytes: 16 and 8."""

    @property
    def trace(self) -> bytes: ...
    @property
    def id(self) -> bytes: ...
    @property
    def remote(self) -> bool: ...
    @property
    def sampled(self) -> bool: ...
    @property
    def state(self) -> TraceState: ...


class Elsewhere(NamedTuple):
    """The context of a span that is not recorded here."""

    trace: bytes
    id: bytes
    sampled: bool
    state: TraceState = NO_STATE
    remote: bool = True

    @staticmethod
    def of(context: SpanContext) -> Elsewhere | None:
        """A context of OpenTelemetry's; None for one that is not valid."""
        if not context.is_valid:
            return None
        trace, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
        return Elsewhere(trace, span_id, context.trace_flags.sampled, context.trace_state, context.is_remote)


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
        kind: int,
        parent: Around | None,
        *,
        attributes: dict[str, Any],
        same: bytes = b"",
        linked: bool = False,
        id: bytes = b"",
        began_ns: int = 0,
    ) -> Recording:
        """A span that has begun, now or then; with an id that others had to know before, or one of its own.

        `same` are attributes in bytes already, for what many spans say alike; `linked` links it to its parent too.
        """
        if parent is not None:
            trace, sampled, state = parent.trace, parent.sampled, parent.state
        else:
            number = self._bits(128) or 1
            trace, sampled, state = number.to_bytes(16, "big"), number & 0xFFFF_FFFF_FFFF_FFFF < self._below, NO_STATE
        span = Recording()
        span.ended = self.ended
        span.name = name
        span.kind = kind
        span.parent = parent
        span.trace = trace
        span.id = id or (self._bits(64) or 1).to_bytes(8, "big")
        span.sampled = sampled
        span.state = state
        span.attributes = attributes
        span.same = same
        span.links = ((parent, {}),) if linked and parent is not None else ()
        span.began_ns = began_ns or time_ns()
        return span


@final
class Recording(Span):
    """A span that is open; implements `rockbot_messaging.tracing.Span` and OpenTelemetry's. A `Recorder` makes them."""

    ended: Callable[[Recording], None]
    name: str
    kind: int
    parent: Around | None
    trace: bytes
    id: bytes
    sampled: bool
    state: TraceState
    attributes: dict[str, Any]
    same: bytes
    links: tuple[tuple[Around, Mapping[str, Any]], ...]
    began_ns: int
    ended_ns: int = 0
    events: tuple[tuple[str, int, Mapping[str, Any]], ...] = ()
    status: StatusCode = StatusCode.UNSET
    description: str = ""
    remote: Final = False

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
            if self.sampled:
                self.ended(self)

    def get_span_context(self) -> SpanContext:
        """Its ids, as OpenTelemetry passes them on."""
        trace_id, span_id = int.from_bytes(self.trace, "big"), int.from_bytes(self.id, "big")
        return SpanContext(trace_id, span_id, False, _SAMPLED if self.sampled else _NOT_SAMPLED, self.state)

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
        if (linked := Elsewhere.of(context)) is not None:
            self.links += ((linked, attributes or {}),)

    def update_name(self, name: str) -> None:
        """Call it otherwise."""
        self.name = name

    def is_recording(self) -> bool:
        """Whether it is kept and not over yet."""
        return self.sampled and not self.ended_ns

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
