"""The home of OpenTelemetry's SDK: what is traced and sent, made of the settings that switch it on.

No provider becomes the global one: libraries that trace themselves when they find one would double our spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rockbot.errors import MissingExtra
from rockbot.settings import Settings
from rockbot.telemetry.process import Telemetry
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.measures import Counters, Measures
from rockbot_messaging.tracing import NO_TRACING

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
except ModuleNotFoundError as exc:
    raise MissingExtra(
        f"the section [telemetry] of the settings (module {exc.name} is not installed)", "otel"
    ) from None

from rockbot.telemetry.otlp_metrics import MetricBatches
from rockbot.telemetry.spans import GIVEN_SPAN_ID, OtelTracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["open_telemetry", "tracer_provider"]

#: How long a batch is tried to be sent, with its repetitions.
SEND_SECONDS: Final = 3.0
#: Milliseconds between two exports of spans.
_SPANS_EVERY_MS: Final = 2000


class _Ids(RandomIdGenerator):
    """Random ids, except for spans whose id others had to know before."""

    def generate_span_id(self) -> int:
        return GIVEN_SPAN_ID.get() or super().generate_span_id()


def open_telemetry(settings: Settings, measures: Measures) -> Telemetry:
    """What the settings switch on; connects when there is something to send."""
    wanted = settings.telemetry
    tracing, flush = NO_TRACING, None
    if wanted.traces:
        provider = tracer_provider(
            settings, OTLPSpanExporter(endpoint=_address(settings, "traces"), timeout=SEND_SECONDS)
        )
        tracing, flush = OtelTracing(provider, namespace=settings.namespace), provider.shutdown
    if wanted.metrics != "push":
        return Telemetry(measures, tracing, flush=flush, queues_every=wanted.queue_seconds)
    exporter = OTLPMetricExporter(endpoint=_address(settings, "metrics"), timeout=SEND_SECONDS)
    batches = MetricBatches(_resource(settings), SystemClock())

    def send(counters: Counters) -> None:
        exporter.export(batches.batch(counters))

    def close() -> None:
        if flush is not None:
            flush()
        exporter.shutdown()

    return Telemetry(
        measures, tracing, send=send, every=wanted.push_seconds, flush=close, queues_every=wanted.queue_seconds
    )


def tracer_provider(settings: Settings, exporter: SpanExporter) -> TracerProvider:
    """Where spans are made as the settings say; they go to `exporter` in batches, from a thread of its own."""
    sampler = ParentBased(TraceIdRatioBased(settings.telemetry.sample_ratio))
    provider = TracerProvider(
        sampler=sampler, resource=_resource(settings), id_generator=_Ids(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_SPANS_EVERY_MS))
    return provider


def _resource(settings: Settings) -> Resource:
    return Resource.create({"service.name": settings.telemetry.service_name or settings.source})


def _address(settings: Settings, signal: str) -> str | None:
    """Where a signal goes; None leaves it to the variables that OpenTelemetry defines."""
    endpoint = settings.telemetry.endpoint
    return f"{endpoint}/v1/{signal}" if endpoint else None
