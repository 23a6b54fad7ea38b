"""OTLP's bytes as spans of the SDK again."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags


def decoded(sent: bytes) -> list[ReadableSpan]:
    """The spans of an `ExportTraceServiceRequest`."""
    return [
        _span(span)
        for resource in ExportTraceServiceRequest.FromString(sent).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span(span: Any) -> ReadableSpan:
    remote = bool(span.flags & 0x200)
    return ReadableSpan(
        span.name,
        _context(span.trace_id, span.span_id, remote=False),
        _context(span.trace_id, span.parent_span_id, remote=remote) if span.parent_span_id else None,
        attributes=_attributes(span.attributes),
        events=[Event(event.name, _attributes(event.attributes), event.time_unix_nano) for event in span.events],
        links=[
            Link(_context(link.trace_id, link.span_id, remote=bool(link.flags & 0x200)), _attributes(link.attributes))
            for link in span.links
        ],
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code), span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
    )


def _context(trace_id: bytes, span_id: bytes, *, remote: bool) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _attributes(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(each) for each in value.array_value.values)
    return getattr(value, kind) if kind else None
