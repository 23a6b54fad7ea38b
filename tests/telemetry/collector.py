"""A collector that takes OTLP over HTTP and keeps what came."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Use as a context; `spans` and `metrics` are what came, by name; `trace` is every span, with the service it is of."""

    def __init__(self) -> None:
        self.spans: dict[str, object] = {}
        self.metrics: dict[str, object] = {}
        self.services: set[str] = set()
        self.trace: list[tuple[str, Span]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = self._serve(resource.resource)
                self.trace += [(service, span) for scope in resource.scope_spans for span in scope.spans]
                self.spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self._serve(resource.resource)
                self.metrics |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}

    def _serve(self, resource: object) -> str:
        given = {each.key: each.value.string_value for each in resource.attributes}  # type: ignore[attr-defined]
        name = str(given["service.name"])
        self.services.add(name)
        return name

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
