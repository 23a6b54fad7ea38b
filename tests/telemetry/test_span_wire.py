"""The bytes of spans are those that OpenTelemetry's own encoder writes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from rockbot.telemetry.recording import INTERNAL, Elsewhere, Recorder, Recording
from rockbot.telemetry.span_wire import attributes_of_a_span, encoded, request

RESOURCE = Resource({"service.name": "home", "process.pid": 7}, "https://opentelemetry.io/schemas/1.44.0")
SCOPE = InstrumentationScope("rockbot")
INSTANTS = st.integers(1, 2**63)
ONE = st.one_of(st.text(max_size=200), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
ATTRIBUTES = st.dictionaries(
    st.text(min_size=1, max_size=130), st.one_of(ONE, st.lists(st.text(), max_size=3).map(tuple)), max_size=6
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
STATUSES = st.sampled_from(
    [Status(StatusCode.UNSET), Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "too late")]
)


@st.composite
def spans(draw: st.DrawFn) -> tuple[Recording, ReadableSpan]:
    """The same span twice: ours, and the SDK's."""
    parent = draw(st.none() | CONTEXTS)
    same, attributes = draw(ATTRIBUTES), draw(ATTRIBUTES)
    attributes = {name: value for name, value in attributes.items() if name not in same}
    name, kind, status = draw(st.text(max_size=200)), draw(st.sampled_from(SpanKind)), draw(STATUSES)
    began, ended = draw(INSTANTS), draw(INSTANTS)
    events = draw(st.lists(st.tuples(st.text(), ATTRIBUTES, INSTANTS), max_size=2))
    links = draw(st.lists(st.tuples(CONTEXTS, ATTRIBUTES), max_size=2))
    linked = draw(st.booleans())
    ours = Recorder(lambda _: None, sample_ratio=1).begin(
        name,
        kind.value + 1,
        parent and Elsewhere.of(parent),
        attributes=dict(attributes),
        same=attributes_of_a_span(same),
        linked=linked,
        id=draw(st.just(b"") | st.binary(min_size=8, max_size=8)),
        began_ns=began,
    )
    for event in events:
        ours.add_event(*event)
    for link in links:
        ours.add_link(*link)
    ours.set_status(status)
    ours.end(ended)
    theirs = ReadableSpan(
        name,
        ours.get_span_context(),
        parent,
        RESOURCE,
        {**same, **attributes},
        [Event(*event) for event in events],
        [Link(parent)] * (linked and parent is not None) + [Link(*link) for link in links],
        kind,
        status=status,
        start_time=began,
        end_time=ended,
        instrumentation_scope=SCOPE,
    )
    return ours, theirs


def assert_alike(ours: list[Recording], theirs: list[ReadableSpan]) -> None:
    sent = request([encoded(span) for span in ours], RESOURCE)
    assert ExportTraceServiceRequest.FromString(sent) == encode_spans(theirs)


@given(st.lists(spans(), min_size=1, max_size=4))
def test_they_say_what_the_sdks_encoder_says(both: list[tuple[Recording, ReadableSpan]]) -> None:
    assert_alike([ours for ours, _ in both], [theirs for _, theirs in both])


def one(attributes: dict[str, Any]) -> Recording:
    span = Recorder(lambda _: None, sample_ratio=1).begin("x", INTERNAL, None, attributes=attributes)
    span.end()
    return span


def test_values_of_every_type_and_length_are_written_as_what_they_are() -> None:
    lengths = {
        f"{'n' * name}{size}": "ä" * size for name in (1, 60, 120, 130) for size in (0, 1, 30, 59, 60, 61, 62, 200)
    }
    odd = {
        "bytes": b"raw",
        "mapping": {"a": 1, "b": ("c",)},
        "none": None,
        "true": True,
        "one": 1,
        "float": 1.0,
        "zero": 0,
    }
    span = one(lengths | odd)
    found = ExportTraceServiceRequest.FromString(request([encoded(span)], RESOURCE))
    (sent,) = found.resource_spans[0].scope_spans[0].spans
    values = {each.key: each.value for each in sent.attributes}
    assert {name: values[name].string_value for name in lengths} == lengths
    assert values["bytes"].bytes_value == b"raw"
    assert {each.key for each in values["mapping"].kvlist_value.values} == {"a", "b"}
    kinds = {name: values[name].WhichOneof("value") for name in ("none", "true", "one", "float", "zero")}
    assert kinds == {
        "none": None,
        "true": "bool_value",
        "one": "int_value",
        "float": "double_value",
        "zero": "int_value",
    }


def test_text_that_is_not_unicode_spoils_no_batch() -> None:
    found = ExportTraceServiceRequest.FromString(request([encoded(one({"half \ud800": "half \udfff"}))], RESOURCE))
    (attribute,) = found.resource_spans[0].scope_spans[0].spans[0].attributes
    assert (attribute.key, attribute.value.string_value) == ("half ?", "half ?")
