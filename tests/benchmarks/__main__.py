"""`python -m tests.benchmarks`: measure, print, compare with what was kept."""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import embedded, report

PARTS = ("broker", "embedded", "sandbox", "turns", "telemetry")
#: Turns of ten model calls in one run of the part `turns`.
_TURNS = 30
_RESULTS = Path(__file__).with_name("results") / "latest.json"


def main() -> int:
    """Exit code 1 is a regression (with --check), 2 a wrong argument."""
    options = _arguments()
    if options.profile:
        _profile(options.profile, options.messages)
        return 0
    begun = time.monotonic()
    samples: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    server = None
    if "embedded" in options.parts:
        samples["embedded"] = _embedded(options.rounds, options.messages)
    if "sandbox" in options.parts:
        from tests.benchmarks import sandbox

        samples["sandbox"] = sandbox.measure(rounds=options.rounds, runs=60 if options.quick else 200, say=_say)
    if {"broker", "turns", "telemetry"} & set(options.parts):
        from tests.benchmarks import broker, telemetry, turns

        with broker.broker_url() as url:
            if "turns" in options.parts:
                count = _TURNS // 3 if options.quick else _TURNS
                samples["turns"] = turns.measure(url, rounds=options.rounds, turns=count, say=_say)
            if "telemetry" in options.parts:
                count = _TURNS // 3 if options.quick else _TURNS
                samples["telemetry"] = telemetry.measure(url, rounds=options.rounds, turns=count, say=_say)
            if "broker" in options.parts:
                measured = broker.measure(url, rounds=options.rounds, messages=options.messages, say=_say)
                samples["broker"], server = measured.runs, measured.server

    machine = report.facts(server)
    summary = report.summarise(*(samples[part] for part in PARTS))
    found = report.ratios(summary)
    print(report.render(machine, summary))
    print(f"\n{options.rounds} rounds of {options.messages:,} messages in {time.monotonic() - begun:.0f} s")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "summary": summary, "ratios": found, "samples": samples}
    options.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.keep:
        print(f"kept in {report.keep(machine, found)}")
    worse = report.compare(found, report.kept())
    for line in worse:
        print(f"regression: {line}", file=sys.stderr)
    return 1 if worse and options.check else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="rounds per contender (5; 2 with --quick)")
    parser.add_argument("--messages", type=int, help="messages per run (15,000; 6,000 with --quick)")
    parser.add_argument("--quick", action="store_true", help="less than a minute, coarser figures")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--check", action="store_true", help="exit 1 on a ratio over 25 %% worse than the kept one")
    parser.add_argument("--keep", action="store_true", help="keep this run's ratios as the new reference")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--profile", choices=("memory", "queue", "sqlite", "rabbitmq"), help="profile one path instead")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    # Publishes come in batches of a hundred, and every contender must find as many messages as it is to consume.
    options.messages = max(1000, (options.messages or (6_000 if options.quick else 15_000)) // 100 * 100)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return options


def _embedded(rounds: int, messages: int) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {path: [] for path in embedded.PATHS}
    for number in range(rounds):
        _say(f"embedded round {number + 1} of {rounds}")
        before = embedded.bare_decode()
        for path in embedded.PATHS:
            result = embedded.measure(path, messages)
            after = embedded.bare_decode()
            samples[path].append({**result, "decode_us": (before + after) / 2})
            before = after
    return samples


def _profile(path: str, messages: int) -> None:
    """Where the time of one path goes, by cProfile: shares mean something, absolute figures do not."""
    if path == "rabbitmq":
        from tests.benchmarks import broker

        os.environ["ROCKBOT_BENCH_PROFILE"] = "1"
        with broker.broker_url() as url:
            broker.measure(url, rounds=1, messages=messages, say=_say)
        return
    profile = cProfile.Profile()
    profile.enable()
    embedded.measure(embedded.PATHS[("memory", "queue", "sqlite").index(path)], messages)
    profile.disable()
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(45)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
