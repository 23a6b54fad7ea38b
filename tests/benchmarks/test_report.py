"""The verdict on regressions is arithmetic, and arithmetic is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import TOLERANCE, compare, keep, kept, ratios, render, summarise


def _round(rate: float, cpu: float) -> dict[str, float]:
    return {"rate": rate, "cpu": cpu}


def test_ratios_are_medians_of_ratios_of_the_same_round() -> None:
    # The machine is three times slower in the last round; within each round ours takes half of the yardstick's CPU.
    broker = {
        "rockbot": {"consume": [_round(20, 0.5), _round(20, 0.5), _round(6, 1.5)]},
        "aio-pika": {"publish": [_round(1, 1)], "consume": [_round(10, 1.0), _round(10, 1.0), _round(3, 3.0)]},
    }
    consume = summarise(broker, {}, {})["broker"]["consume"]
    assert consume["rockbot"]["cpu_x"] == 0.5
    assert consume["rockbot"]["rate_x"] == 2.0
    assert consume["aio-pika"]["cpu_x"] == 1.0


def test_what_the_yardstick_cannot_do_is_compared_with_what_comes_nearest() -> None:
    broker = {
        "rockbot": {"publish-many": [_round(30, 0.25)], "publish": [_round(20, 0.5)]},
        "aio-pika": {"publish": [_round(10, 1.0)]},
    }
    summary = summarise(broker, {}, {})
    assert summary["broker"]["publish-many"]["rockbot"]["cpu_x"] == 0.25
    assert ratios(summary) == {"broker publish-many: cpu x aio-pika": 0.25, "broker publish: cpu x aio-pika": 0.5}


def test_a_ratio_within_the_tolerance_is_no_regression() -> None:
    assert compare({"path": 1 + TOLERANCE}, {"path": 1.0}) == []


def test_a_ratio_beyond_the_tolerance_is_a_regression_that_says_by_how_much() -> None:
    (line,) = compare({"path": 1.5, "new": 9.0}, {"path": 1.0})
    assert line == "path: 1.500, kept is 1.000 (+50%)"


def test_the_kept_ratios_cover_every_part_and_are_all_positive() -> None:
    reference = kept()
    assert {name.split()[0].rstrip(":") for name in reference} >= {"broker", "memory", "SQLite", "sandbox"}
    assert all(value > 0 for value in reference.values())


def test_keeping_one_part_leaves_the_other_parts_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    keep({}, {"a": 1.0, "b": 2.0}, path)
    keep({}, {"b": 3.0}, path)
    assert kept(path) == {"a": 1.0, "b": 3.0}


def test_a_missed_target_is_called_missed() -> None:
    sample = {"rate": 10_000.0, "cpu": 1.0, "decode_us": 10.0}
    text = render({}, summarise({}, {"memory: publish to settle": [sample]}, {}))
    assert "10,000.00 >= 15,000.00  MISSED" in text


def test_the_embedded_part_runs_and_writes_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = ["--parts", "embedded", "--rounds", "1", "--messages", "1000", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert figures["summary"]["embedded"]["memory: queue to settle"]["rate"] > 0


def test_a_step_of_a_turn_is_compared_with_its_own_round() -> None:
    def sample(slow: float, cost: float) -> dict[str, float]:
        return {"p50_ms": slow * cost, "p99_ms": 9.0, "cpu_ms": slow * cost}

    yardstick = [sample(slow, 4.0) for slow in (1, 2, 3)]
    turns = {
        "LangGraph, SQLite checkpointer": yardstick,
        "rockbot, in memory": [sample(slow, 2.0) for slow in (1, 2, 3)],
    }
    summary = summarise({}, {}, {}, turns)
    assert summary["turns"]["rockbot, in memory"]["p50_x"] == 0.5
    assert ratios(summary) == {"turns rockbot, in memory: cpu x LangGraph": 0.5}
    assert "target two steps of a turn (model, tool) in memory, p50 ms: 4.00 <= 4.00  met" in render({}, summary)


def test_what_telling_costs_is_compared_with_silence_in_the_same_place_and_round() -> None:
    def samples(cost: float) -> list[dict[str, float]]:
        return [{"p50_ms": slow * cost, "p99_ms": 9.0, "cpu_ms": slow * cost} for slow in (1, 2, 3)]

    telemetry = {"in memory, off": samples(4.0), "in memory, metrics": samples(5.0), "far, off": samples(1.0)}
    summary = summarise({}, {}, {}, None, telemetry)
    assert summary["telemetry"]["in memory, metrics"]["cpu_x"] == 1.25
    assert ratios(summary) == {"telemetry in memory, metrics: cpu x off": 1.25}
    assert "in memory, metrics" in render({}, summary)
