"""The home of OpenTelemetry's SDK: what is traced and sent, made of the settings that switch it on.

No provider becomes the global one: libraries that trace themselves when they find one would double our spans.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from rockbot.errors import ConfigError, MissingExtra
from rockbot.settings import Settings
from rockbot.telemetry.process import Telemetry
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.measures import Counters, Measures
from rockbot_messaging.tracing import NO_TRACING

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
except ModuleNotFoundError as exc:
    raise MissingExtra(
        f"the section [telemetry] of the settings (module {exc.name} is not installed)", "otel"
    ) from None

from rockbot.telemetry.batches import SpanBatches
from rockbot.telemetry.otlp_metrics import MetricBatches
from rockbot.telemetry.recording import Recorder, Recording
from rockbot.telemetry.span_wire import encoded, request
from rockbot.telemetry.spans import OtelTracing

__all__ = ["open_telemetry", "traced_batches"]

_log = logging.getLogger(__name__)

#: How long a batch is tried to be sent, with its repetitions.
SEND_SECONDS: Final = 3.0
#: Seconds between two exports of spans.
_SPANS_EVERY: Final = 2.0


def open_telemetry(settings: Settings, measures: Measures) -> Telemetry:
    """What the settings switch on; connects when there is something to send.

    Raises:
        ConfigError: the exporter that is installed is none that can be used.
    """
    wanted = settings.telemetry
    tracing, flush = NO_TRACING, None
    if wanted.traces:
        # The SDK's way to a collector, with all the variables it knows, from where its spans are bytes.
        client = getattr(OTLPSpanExporter(endpoint=_address(settings, "traces"), timeout=SEND_SECONDS), "_client", None)
        if client is None:
            raise ConfigError(
                "telemetry.traces does not work with the installed opentelemetry-exporter-otlp-proto-http: install 1.45.2"
            )
        tracing, spans = traced_batches(settings, lambda data: bool(client.export(data).success))

        def flush_spans() -> None:
            spans.close()
            client.shutdown()

        flush = flush_spans
    if wanted.metrics != "push":
        return Telemetry(measures, tracing, flush=flush, queues_every=wanted.queue_seconds)
    sender = OTLPMetricExporter(endpoint=_address(settings, "metrics"), timeout=SEND_SECONDS)
    metrics = MetricBatches(_resource(settings), SystemClock())

    def send(counters: Counters) -> None:
        sender.export(metrics.batch(counters))

    def close() -> None:
        if flush is not None:
            flush()
        sender.shutdown()

    return Telemetry(
        measures, tracing, send=send, every=wanted.push_seconds, flush=close, queues_every=wanted.queue_seconds
    )


def traced_batches(settings: Settings, send: Callable[[bytes], bool]) -> tuple[OtelTracing, SpanBatches]:
    """Spans as the settings say, and their way out: `send` is given requests in OTLP, in a thread of its own."""
    resource = _resource(settings)

    def send_spans(spans: Sequence[bytes]) -> bool:
        try:
            return send(request(spans, resource))
        except Exception:
            _log.exception("%d spans could not be sent", len(spans))
            return False

    batches = SpanBatches(send_spans, every=_SPANS_EVERY)

    def ended(span: Recording) -> None:
        try:
            batches.put(encoded(span))
        except Exception:
            _log.exception("the span %r is dropped: it cannot be written", span.name)

    recorder = Recorder(ended, sample_ratio=settings.telemetry.sample_ratio)
    return OtelTracing(recorder, namespace=settings.namespace), batches


def _resource(settings: Settings) -> Resource:
    return Resource.create({"service.name": settings.telemetry.service_name or settings.source})


def _address(settings: Settings, signal: str) -> str | None:
    """Where a signal goes; None leaves it to the variables that OpenTelemetry defines."""
    endpoint = settings.telemetry.endpoint
    return f"{endpoint}/v1/{signal}" if endpoint else None
