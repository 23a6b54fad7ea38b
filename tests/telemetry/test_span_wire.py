"""The bytes of spans are those that OpenTelemetry's own encoder writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from rockbot.telemetry.span_wire import encoded

RESOURCE = Resource({"service.name": "home", "process.pid": 7}, "https://opentelemetry.io/schemas/1.44.0")
SCOPE = InstrumentationScope("rockbot")
INSTANTS = st.integers(1, 2**63)
ONE = st.one_of(st.text(max_size=200), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
ATTRIBUTES = st.dictionaries(
    st.text(min_size=1, max_size=30), st.one_of(ONE, st.lists(st.text(), max_size=3).map(tuple)), max_size=6
)
STATES = st.sampled_from([TraceState(), TraceState([("vendor", "a"), ("other", "b")])])
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.just(TraceFlags(1)),
    trace_state=STATES,
)
SPANS = st.builds(
    ReadableSpan,
    name=st.text(max_size=200),
    context=CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=st.just(RESOURCE),
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Event, st.text(), ATTRIBUTES, INSTANTS), max_size=2),
    links=st.lists(st.builds(Link, CONTEXTS, ATTRIBUTES), max_size=2),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.OK), Status(StatusCode.ERROR)]),
    start_time=INSTANTS,
    end_time=INSTANTS,
    instrumentation_scope=st.just(SCOPE),
)


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_they_say_what_the_sdks_encoder_says(spans: list[ReadableSpan]) -> None:
    assert ExportTraceServiceRequest.FromString(encoded(spans, RESOURCE)) == encode_spans(spans)


def test_equal_values_of_different_types_stay_what_they_are() -> None:
    context = SpanContext(1, 2, is_remote=False)
    for value in (1, True, 1.0, 0, False, 0.0):
        span = ReadableSpan(
            "x",
            context,
            resource=RESOURCE,
            attributes={"a": value},
            start_time=1,
            end_time=2,
            instrumentation_scope=SCOPE,
        )
        assert ExportTraceServiceRequest.FromString(encoded([span], RESOURCE)) == encode_spans([span])
