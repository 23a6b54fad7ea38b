"""Spans while they are open: ours, because a span of the SDK costs several times what a step of a turn has to spare.

What has ended becomes the SDK's `ReadableSpan` and goes on in its batches, to its exporters. Record 38 has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import time_ns
from typing import Any, Final, final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from rockbot.telemetry import semconv
from rockbot_messaging.tracing import Attributes

__all__ = ["Recorder", "Recording"]

_SCOPE: Final = InstrumentationScope("rockbot")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)


@final
class Recorder:
    """Begins spans; `processor` gets those that have ended.

    A span with a parent is recorded if its parent is; of the traces that begin here, the part `sample_ratio`.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource, *, sample_ratio: float) -> None:
        self.processor = processor
        self.resource = resource
        self._below = round(sample_ratio * 2**64)
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, no secrets

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        *,
        attributes: dict[str, Any],
        links: Sequence[Link] = (),
        span_id: int = 0,
        began_ns: int = 0,
    ) -> Recording:
        """A span that has begun, now or then; with an id that others had to know before, or one of its own."""
        bits = self._bits
        if parent is None:
            trace_id = bits(128) or 1
            flags = _SAMPLED if trace_id & 0xFFFF_FFFF_FFFF_FFFF < self._below else _NOT_SAMPLED
            context = SpanContext(trace_id, span_id or bits(64) or 1, is_remote=False, trace_flags=flags)
        else:
            context = SpanContext(
                parent.trace_id,
                span_id or bits(64) or 1,
                is_remote=False,
                trace_flags=parent.trace_flags,
                trace_state=parent.trace_state,
            )
        return Recording(self, name, kind, context, parent, attributes, links, began_ns or time_ns())

    def flush(self) -> None:
        """Send what has ended; blocks."""
        self.processor.force_flush()

    def shutdown(self) -> None:
        """Send what is left; blocks."""
        self.processor.shutdown()


@final
class Recording:
    """A span that is open; implements `rockbot_messaging.tracing.Span`."""

    __slots__ = (
        "_began_ns",
        "_events",
        "_kind",
        "_links",
        "_name",
        "_parent",
        "_recorder",
        "_status",
        "attributes",
        "context",
    )

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        links: Sequence[Link],
        began_ns: int,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self.context = context
        self._parent = parent
        self.attributes = attributes
        self._links = links
        self._began_ns = began_ns
        self._events: list[Event] = []
        self._status = _UNSET

    def set(self, attributes: Attributes, /) -> None:
        """Add attributes."""
        self.attributes.update(attributes)

    def failed(self, error_type: str, /) -> None:
        """Say that what it spans failed, and how in one word."""
        self.attributes[semconv.ERROR_TYPE] = error_type
        self._status = _ERROR

    def happened(self, name: str, attributes: dict[str, Any]) -> None:
        """Note an event, now."""
        self._events.append(Event(name, attributes))

    def end(self, ended_ns: int = 0) -> None:
        """It is over, now or since then. To be called once."""
        if not self.context.trace_flags.sampled:
            return
        ended = ReadableSpan(
            self._name,
            self.context,
            self._parent,
            self._recorder.resource,
            self.attributes,
            self._events,
            self._links,
            self._kind,
            status=self._status,
            start_time=self._began_ns,
            end_time=ended_ns or time_ns(),
            instrumentation_scope=_SCOPE,
        )
        self._recorder.processor.on_end(ended)
