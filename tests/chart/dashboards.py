"""The chart's Grafana dashboards, made from the table of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from chart.alerts import metric

from rockbot_messaging.measures import Names

__all__ = ["DASHBOARDS", "dashboards"]

_HERE: Final = 'namespace=~"$namespace"'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 12
_HEIGHT: Final = 8


@final
@dataclass(frozen=True, slots=True)
class Panel:
    """One time series: `queries` are expressions with what each line is called; `unit` is Grafana's."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]


@final
@dataclass(frozen=True, slots=True)
class Dashboard:
    """`uid` never changes: links keep."""

    uid: str
    title: str
    panels: Sequence[Panel]


def _rate(name: str, *labels: str) -> tuple[str, str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return f"sum by ({', '.join(labels)}) (rate({metric(name, _HERE)}[$__rate_interval]))", legend


def _gauge(how: str, name: str, *labels: str) -> tuple[str, str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"{how}{by} ({metric(name, _HERE)})", legend


def _quantiles(name: str, *labels: str) -> list[tuple[str, str]]:
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    buckets = f"sum by (le, {', '.join(labels)}) (rate({metric(name, _HERE, suffix='_bucket')}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {buckets})", f"p{round(share * 100)} {legend}") for share in (0.5, 0.95)]


DASHBOARDS: Final[Mapping[str, Dashboard]] = {
    "rockbot-messages": Dashboard(
        "rockbot-messages",
        "RockBot / Messages and turns",
        (
            Panel("Messages that wait", "short", [_gauge("max", Names.QUEUE_DEPTH, "subscription")]),
            Panel("Consumers", "short", [_gauge("max", Names.QUEUE_CONSUMERS, "subscription")]),
            Panel("Age when handled", "s", _quantiles(Names.QUEUE_WAIT, "subscription")),
            Panel("Deliveries", "ops", [_rate(Names.SETTLED, "subscription", "outcome")]),
            Panel("Time in handlers", "s", _quantiles(Names.HANDLED, "subscription", "event")),
            Panel("Without a consumer", "s", [_gauge("max", Names.IDLE, "subscription")]),
            Panel("Dead letters", "short", [_gauge("max", Names.DEAD_LETTER_DEPTH, "queue")]),
            Panel("Oldest dead letter", "s", [_gauge("max", Names.DEAD_LETTER_AGE, "queue")]),
            Panel("New dead letters by class", "ops", [_rate(Names.DEAD_LETTERS, "subscription", "error")]),
            Panel(
                "Outages and poison",
                "short",
                [_gauge("max", Names.OUTAGE, "subscription"), _rate(Names.POISONED, "subscription")],
            ),
            Panel("Turns", "ops", [_rate(Names.TURNS, "agent", "status")]),
            Panel("Time of turns", "s", _quantiles(Names.TURN_DURATION, "agent")),
            Panel("Turns under way", "short", [_gauge("max", Names.TURNS_OPEN, "agent", "state")]),
            Panel("Longest in its state", "s", [_gauge("max", Names.TURN_OLDEST, "agent", "state")]),
            Panel("Steps", "ops", [_rate(Names.TURN_STEPS, "agent")]),
            Panel(
                "Stalls and resumes",
                "ops",
                [(query, f"{word} {legend}") for word, (query, legend) in (
                    ("stalled", _rate(Names.TURN_STALLS, "agent")), ("resumed", _rate(Names.TURN_RESUMES, "agent"))
                )],
            ),
        ),
    ),
    "rockbot-work": Dashboard(
        "rockbot-work",
        "RockBot / Models, tools, sandboxes",
        (
            Panel("Model calls", "ops", [_rate(Names.MODEL_CALLS, "provider", "model", "outcome")]),
            Panel("Time of model calls", "s", _quantiles(Names.MODEL_DURATION, "provider", "model")),
            Panel("Tokens", "ops", [_rate(Names.MODEL_TOKENS, "model", "kind")]),
            Panel("Cost per second", "short", [_rate(Names.MODEL_COST, "provider", "model")]),
            Panel("Left of limits", "percentunit", [_gauge("min", Names.LIMIT_LEFT, "limit")]),
            Panel("Refused by limits", "ops", [_rate(Names.LIMIT_REFUSALS, "limit")]),
            Panel("Tool calls", "ops", [_rate(Names.TOOL_CALLS, "tool", "outcome")]),
            Panel("Time of tool calls", "s", _quantiles(Names.TOOL_DURATION, "tool")),
            Panel("Runs of scripts", "ops", [_rate(Names.SCRIPT_RUNS, "runtime", "outcome")]),
            Panel("Time of runs", "s", _quantiles(Names.SCRIPT_DURATION, "runtime")),
            Panel("Sandboxes", "short", [_gauge("sum", Names.SCRIPT_WORKERS, "state")]),
            Panel("Replaced sandboxes", "ops", [_rate(Names.SCRIPT_REPLACED, "pod")]),
        ),
    ),
}  # fmt: skip


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard as Grafana reads it, by the name of its file without the ending."""
    return {name: _document(dashboard) for name, dashboard in DASHBOARDS.items()}


def _document(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["rockbot"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    yield {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({metric(Names.CONNECTED)[:-2]}, namespace)", "refId": "namespace"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(panel.queries)
        ],
    }
