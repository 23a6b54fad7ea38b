"""Settings of what a process tells of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["TelemetrySettings"]


class TelemetrySettings(BaseModel):
    """Counts and spans.

    `metrics`: ``off`` counts nothing, ``scrape`` counts and shows it under ``/metrics`` on the health port, ``push`` also
    sends it by OTLP every `push_seconds`. The broker is asked every `queue_seconds` (0: never) how many messages wait. `traces`
    sends spans by OTLP: all of them, or the part `sample_ratio` of those traces that begin here; a trace that began elsewhere is
    recorded if it is there. ``push`` and `traces` need the extra `otel`.

    `endpoint` is the collector's address without a path; empty: what ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, else the port 4318
    of this machine. `protocol` is how it is spoken to. `service_name` is what the process calls itself; empty: the setting
    `source`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    metrics: Literal["off", "scrape", "push"] = "scrape"
    push_seconds: float = Field(default=60, ge=1, le=3600)
    queue_seconds: float = Field(default=15, ge=0, le=3600)
    traces: bool = False
    sample_ratio: float = Field(default=1, ge=0, le=1)
    endpoint: str = ""
    protocol: Literal["http/protobuf"] = "http/protobuf"
    service_name: str = ""

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")
