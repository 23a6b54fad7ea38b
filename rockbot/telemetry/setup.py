"""The home of OpenTelemetry's SDK: what is traced and sent, made of the settings that switch it on.

No provider becomes the global one: libraries that trace themselves when they find one would double our spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

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
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
except ModuleNotFoundError as exc:
    raise MissingExtra(
        f"the section [telemetry] of the settings (module {exc.name} is not installed)", "otel"
    ) from None

from rockbot.telemetry.otlp_metrics import MetricBatches
from rockbot.telemetry.recording import Recorder
from rockbot.telemetry.span_wire import encoded
from rockbot.telemetry.spans import OtelTracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["open_telemetry", "span_recorder"]

#: How long a batch is tried to be sent, with its repetitions.
SEND_SECONDS: Final = 3.0
#: Milliseconds between two exports of spans.
_SPANS_EVERY_MS: Final = 2000


@final
class _SpanSender(OTLPSpanExporter):
    """The SDK's exporter, given bytes where it lets itself be."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        client = getattr(self, "_client", None)
        if client is None or not spans:
            return super().export(spans)
        sent = client.export(encoded(spans, spans[0].resource))
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


def open_telemetry(settings: Settings, measures: Measures) -> Telemetry:
    """What the settings switch on; connects when there is something to send."""
    wanted = settings.telemetry
    tracing, flush = NO_TRACING, None
    if wanted.traces:
        exporter = _SpanSender(endpoint=_address(settings, "traces"), timeout=SEND_SECONDS)
        recorder = span_recorder(settings, exporter)
        tracing, flush = OtelTracing(recorder, namespace=settings.namespace), recorder.shutdown
    if wanted.metrics != "push":
        return Telemetry(measures, tracing, flush=flush, queues_every=wanted.queue_seconds)
    sender = OTLPMetricExporter(endpoint=_address(settings, "metrics"), timeout=SEND_SECONDS)
    batches = MetricBatches(_resource(settings), SystemClock())

    def send(counters: Counters) -> None:
        sender.export(batches.batch(counters))

    def close() -> None:
        if flush is not None:
            flush()
        sender.shutdown()

    return Telemetry(
        measures, tracing, send=send, every=wanted.push_seconds, flush=close, queues_every=wanted.queue_seconds
    )


def span_recorder(settings: Settings, exporter: SpanExporter) -> Recorder:
    """Where spans are made as the settings say; they go to `exporter` in batches, from a thread of its own."""
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=_SPANS_EVERY_MS)
    return Recorder(processor, _resource(settings), sample_ratio=settings.telemetry.sample_ratio)


def _resource(settings: Settings) -> Resource:
    return Resource.create({"service.name": settings.telemetry.service_name or settings.source})


def _address(settings: Settings, signal: str) -> str | None:
    """Where a signal goes; None leaves it to the variables that OpenTelemetry defines."""
    endpoint = settings.telemetry.endpoint
    return f"{endpoint}/v1/{signal}" if endpoint else None
