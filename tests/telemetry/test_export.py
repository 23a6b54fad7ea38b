"""What leaves the process: spans and counts to a collector, by the settings that say so."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError
from telemetry.collector import Collector

from rockbot.errors import ConfigError, MissingExtra
from rockbot.settings import Settings
from rockbot.telemetry import setup
from rockbot.telemetry.process import telemetry_of
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.tracing import NO_TRACING


def settings(**telemetry: object) -> Settings:
    return Settings(telemetry=telemetry)


async def test_traces_and_metrics_push_go_to_the_endpoint_under_the_service_name_and_metrics_keep_their_numbers() -> (
    None
):
    with Collector() as collector:
        telemetry = telemetry_of(
            settings(
                traces=True,
                metrics="push",
                push_seconds=5,
                endpoint=collector.address + "/",
                protocol="http/protobuf",
                service_name="home",
            )
        )
        assert telemetry.sends
        assert telemetry.every == 5
        telemetry.measures.count(Names.TURNS, 3, agent="a", status="completed")
        telemetry.measures.gauge(Names.LIMIT_LEFT, 0.5, limit="limits.all.tokens")
        for seconds in (0.002, 70):
            telemetry.measures.observe(Names.HANDLED, seconds, subscription="s", event="e")
        with telemetry.tracing.span("chat demo", {"gen_ai.operation.name": "chat"}, kind="client"):
            pass
        await telemetry.close()
        await telemetry.close()
    assert collector.services == {"home"}
    assert set(collector.spans) == {"chat demo"}
    turns, left, handled = (collector.metrics[name] for name in (Names.TURNS, Names.LIMIT_LEFT, Names.HANDLED))
    assert turns.sum.is_monotonic  # type: ignore[attr-defined]
    assert [point.as_double or point.as_int for point in turns.sum.data_points] == [3]  # type: ignore[attr-defined]
    assert [point.as_double for point in left.gauge.data_points] == [0.5]  # type: ignore[attr-defined]
    (point,) = handled.histogram.data_points  # type: ignore[attr-defined]
    assert (point.count, point.sum, sum(point.bucket_counts)) == (2, 70.002, 2)
    assert {attribute.key for attribute in point.attributes} == {"subscription", "event"}


async def test_a_collector_that_is_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "SEND_SECONDS", 0.2)
    telemetry = telemetry_of(settings(metrics="push", endpoint="http://127.0.0.1:9"))
    telemetry.measures.count(Names.LATE_REPLIES)
    await telemetry.close()


def test_without_push_and_traces_nothing_is_sent() -> None:
    telemetry = telemetry_of(settings())
    assert isinstance(telemetry.measures, Counters)
    assert telemetry.tracing is NO_TRACING
    assert not telemetry.sends


@pytest.mark.parametrize(
    ("key", "value"),
    [("endpoint", "collector:4318"), ("sample_ratio", 2), ("metrics", "on"), ("push_seconds", 0), ("protocol", "grpc")],
)
def test_a_wrong_value_is_refused_by_its_name(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        settings(**{key: value})


def test_without_the_packages_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rockbot.telemetry.setup")
    monkeypatch.delattr("rockbot.telemetry.setup")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(MissingExtra, match=r"rockbot\[otel\]"):
        telemetry_of(settings(traces=True))


def test_an_exporter_that_cannot_be_used_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, **_: object) -> None: ...

    monkeypatch.setattr(setup, "OTLPSpanExporter", Other)
    with pytest.raises(ConfigError, match=r"telemetry\.traces .* opentelemetry-exporter-otlp-proto-http"):
        telemetry_of(settings(traces=True))
