"""From samples to the table that people read, the file that programs read, and the verdict on regressions.

Absolute figures belong to one machine and one minute. What is kept and compared are ratios of figures measured in the
same round: against raw aio-pika for the broker, against bare decoding of the same body for everything in the process.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

__all__ = ["TOLERANCE", "compare", "facts", "keep", "kept", "ratios", "render", "summarise"]

#: A ratio may be this much worse than the kept one.
TOLERANCE: Final = 0.25

_REFERENCE: Final = Path(__file__).with_name("reference.json")
_YARDSTICK: Final = "aio-pika"
_LOOP_YARDSTICK: Final = "LangGraph, SQLite checkpointer"
_LIBRARIES: Final = (
    "aio-pika",
    "aiormq",
    "pamqp",
    "faststream",
    "dramatiq",
    "celery",
    "taskiq-aio-pika",
    "pydantic",
    "wasmtime",
)

#: What the project wants of itself; a figure is compared with `<=` when it is a cost, with `>=` when it is a rate.
TARGETS: Final[tuple[tuple[str, str, str, float], ...]] = (
    ("RabbitMQ consume, CPU per message, x aio-pika", "broker consume rockbot cpu_x", "<=", 1.0),
    (
        "in memory, events per second of one core, publish to settle",
        "embedded memory: publish to settle core_rate",
        ">=",
        15_000,
    ),
    ("two steps of a turn (model, tool) in memory, p50 ms", "turns rockbot, in memory p50_ms", "<=", 4.0),
    (
        "two steps of a turn (model, tool) over RabbitMQ and SQLite, p50 ms",
        "turns rockbot, RabbitMQ + SQLite p50_ms",
        "<=",
        16.0,
    ),
    (
        "metrics and traces over RabbitMQ and SQLite, CPU x off",
        "telemetry RabbitMQ + SQLite, metrics and traces cpu_x",
        "<=",
        1.1,
    ),
    ("metrics and traces in memory, CPU x off", "telemetry in memory, metrics and traces cpu_x", "<=", 1.1),
    ("sandbox round trip, python, ms", "sandbox python median_ms", "<=", 5.0),
    ("sandbox round trip, javascript, ms", "sandbox javascript median_ms", "<=", 3.0),
)


def facts(server: str | None) -> dict[str, Any]:
    """The machine and the versions behind a run."""
    # Contenders have an environment of their own, beside ours.
    path = [*sys.path, *map(str, Path(sys.prefix).glob("bench/lib/python*/site-packages"))]
    versions = {}
    for name in _LIBRARIES:
        found = next(iter(metadata.distributions(name=name, path=path)), None)
        versions[name] = "not installed" if found is None else found.version
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rabbitmq": server,
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def summarise(
    broker: dict[str, dict[str, list[dict[str, float]]]],
    embedded: dict[str, list[dict[str, float]]],
    sandbox: dict[str, list[dict[str, float]]],
    turns: dict[str, list[dict[str, float]]] | None = None,
    telemetry: dict[str, list[dict[str, float]]] | None = None,
) -> dict[str, Any]:
    """Medians, and medians of same-round ratios, of every part that was run."""
    result: dict[str, Any] = {"broker": {}, "embedded": {}, "sandbox": {}, "turns": {}, "telemetry": {}}
    for run in dict.fromkeys(run for runs in broker.values() for run in runs):
        yardstick = broker[_YARDSTICK].get(run) or broker[_YARDSTICK]["publish"]
        result["broker"][run] = {
            name: {
                "rate": median(sample["rate"] for sample in runs[run]),
                "cpu": median(sample["cpu"] for sample in runs[run]),
                "rate_x": _times(runs[run], yardstick, "rate"),
                "cpu_x": _times(runs[run], yardstick, "cpu"),
            }
            for name, runs in broker.items()
            if run in runs
        }
    for path, samples in embedded.items():
        result["embedded"][path] = {
            "rate": median(sample["rate"] for sample in samples),
            "cpu": median(sample["cpu"] for sample in samples),
            "core_rate": median(10_000 / sample["cpu"] for sample in samples),
            "decode_us": median(sample["decode_us"] for sample in samples),
            "decode_x": median(sample["cpu"] * 100 / sample["decode_us"] for sample in samples),
        }
    for language, samples in sandbox.items():
        result["sandbox"][language] = {
            "median_ms": median(sample["median_ms"] for sample in samples),
            "p95_ms": median(sample["p95_ms"] for sample in samples),
            "best_ms": median(sample["best_ms"] for sample in samples),
            "decode_x": median(sample["best_ms"] * 1000 / sample["decode_us"] for sample in samples),
        }
    for name, samples in (turns or {}).items():
        yardstick = (turns or {})[_LOOP_YARDSTICK]
        result["turns"][name] = {
            "p50_ms": median(sample["p50_ms"] for sample in samples),
            "p99_ms": median(sample["p99_ms"] for sample in samples),
            "cpu_ms": median(sample["cpu_ms"] for sample in samples),
            "p50_x": _times(samples, yardstick, "p50_ms"),
            "cpu_x": _times(samples, yardstick, "cpu_ms"),
        }
    for name, samples in (telemetry or {}).items():
        yardstick = (telemetry or {})[f"{name.partition(',')[0]}, off"]
        result["telemetry"][name] = {
            "p50_ms": median(sample["p50_ms"] for sample in samples),
            "cpu_ms": median(sample["cpu_ms"] for sample in samples),
            "p50_x": _times(samples, yardstick, "p50_ms"),
            "cpu_x": _times(samples, yardstick, "cpu_ms"),
        }
    return result


def _times(samples: Sequence[dict[str, float]], yardstick: Sequence[dict[str, float]], key: str) -> float:
    return median(mine[key] / its[key] for mine, its in zip(samples, yardstick, strict=True))


def ratios(summary: dict[str, Any]) -> dict[str, float]:
    """The ratios that are kept; all of them are costs, so smaller is better."""
    found = {f"broker {run}: cpu x {_YARDSTICK}": its["rockbot"]["cpu_x"] for run, its in summary["broker"].items()}
    found |= {f"{path}: cpu x decode": its["decode_x"] for path, its in summary["embedded"].items()}
    found |= {
        f"sandbox {language}: best time x decode": its["decode_x"] for language, its in summary["sandbox"].items()
    }
    found |= {
        f"turns {name}: cpu x LangGraph": its["cpu_x"]
        for name, its in summary["turns"].items()
        if name.startswith("rockbot")
    }
    found |= {
        f"telemetry {name}: cpu x off": its["cpu_x"]
        for name, its in summary["telemetry"].items()
        if not name.endswith(", off")
    }
    return {name: round(value, 3) for name, value in found.items()}


def kept(path: Path = _REFERENCE) -> dict[str, float]:
    """The kept ratios; none when nothing was kept yet."""
    if not path.exists():
        return {}
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["ratios"]
    return found


def keep(machine: dict[str, Any], found: dict[str, float], path: Path = _REFERENCE) -> Path:
    """Keep these ratios from now on; those that were not measured stay."""
    merged = dict(sorted((kept(path) | found).items()))
    text = json.dumps({"machine": machine, "ratios": merged}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def compare(found: dict[str, float], reference: dict[str, float]) -> list[str]:
    """A sentence for every ratio that is more than the tolerance worse than the kept one."""
    return [
        f"{name}: {value:.3f}, kept is {reference[name]:.3f} ({value / reference[name] - 1:+.0%})"
        for name, value in found.items()
        if name in reference and value > reference[name] * (1 + TOLERANCE)
    ]


def render(machine: dict[str, Any], summary: dict[str, Any]) -> str:
    """The whole run as text."""
    parts = [", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)]
    rows: list[tuple[str, ...]]
    if summary["broker"]:
        rows = [
            (run, name, f"{its['rate']:,.0f}", f"{its['rate_x']:.2f}", f"{its['cpu']:.2f}", f"{its['cpu_x']:.2f}")
            for run, contenders in summary["broker"].items()
            for name, its in contenders.items()
        ]
        head = ("RabbitMQ, quorum queue", "contender", "msg/s", "x aio-pika", "CPU s/10k", "x aio-pika")
        parts.append(_table(head, rows))
    if summary["embedded"]:
        rows = [
            (
                path,
                f"{its['rate']:,.0f}",
                f"{its['core_rate']:,.0f}",
                f"{its['cpu'] * 100:.1f}",
                f"{its['cpu']:.2f}",
                f"{its['decode_x']:.2f}",
            )
            for path, its in summary["embedded"].items()
        ]
        parts.append(
            _table(
                ("in one process", "events/s", "per core second", "CPU µs/message", "CPU s/10k", "x bare decode"), rows
            )
        )
    if summary["sandbox"]:
        rows = [
            (
                language,
                f"{its['median_ms']:.2f}",
                f"{its['p95_ms']:.2f}",
                f"{its['best_ms']:.2f}",
                f"{its['decode_x']:.0f}",
            )
            for language, its in summary["sandbox"].items()
        ]
        parts.append(_table(("sandbox, warm round trip", "median ms", "p95 ms", "best ms", "x bare decode"), rows))
    if summary["turns"]:
        rows = [
            (name, *(f"{its[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms", "p50_x", "cpu_x")))
            for name, its in summary["turns"].items()
        ]
        head = ("two steps of a turn: model, tool", "p50 ms", "p99 ms", "CPU ms", "p50 x LangGraph", "CPU x LangGraph")
        parts.append(_table(head, rows))
    if summary["telemetry"]:
        rows = [
            (name, *(f"{its[key]:.2f}" for key in ("p50_ms", "cpu_ms", "p50_x", "cpu_x")))
            for name, its in summary["telemetry"].items()
        ]
        parts.append(
            _table(("two steps of a turn, and what is told", "p50 ms", "CPU ms", "p50 x off", "CPU x off"), rows)
        )
    parts.append("\n".join(_targets(summary)))
    return "\n\n".join(part for part in parts if part)


def _targets(summary: dict[str, Any]) -> Iterable[str]:
    flat = {f"{part} {' '.join(path)}": value for part in summary for path, value in _leaves(summary[part])}
    for text, key, relation, target in TARGETS:
        if (value := flat.get(key)) is not None:
            met = value <= target if relation == "<=" else value >= target
            yield f"target {text}: {value:,.2f} {relation} {target:,.2f}  {'met' if met else 'MISSED'}"


def _leaves(tree: dict[str, Any], *path: str) -> Iterable[tuple[tuple[str, ...], float]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, *path, name)
        else:
            yield (*path, name), value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    texts = sum(1 for cell in rows[0] if not cell.replace(",", "").replace(".", "").isdigit())
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
