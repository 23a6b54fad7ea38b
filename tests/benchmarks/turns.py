"""The part `turns`: what a step of an agent's loop costs, ours in memory and over RabbitMQ, beside two others.

These keep every step, too, but are libraries inside one process: no step passes a broker, and no other process could take a
turn over while it runs. The ratios say what that costs, they are no verdict. All run in turn, in every round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.loop import STEPS
from tests.benchmarks.running import run

__all__ = ["measure"]


def measure(url: str, *, rounds: int, turns: int, say: Callable[[str], None]) -> dict[str, list[dict[str, float]]]:
    """Milliseconds per step of `turns` turns of ten model calls, per contender and round."""
    samples: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        say(f"turns round {number + 1} of {rounds} ({turns} turns of {STEPS} model calls each)")
        with tempfile.TemporaryDirectory(prefix="rockbot-bench-") as name:
            folder = Path(name)
            space = f"bench-turns-{os.getpid()}-{number}"
            contenders = {
                "rockbot, in memory": ("rockbot_turns", ["memory://", "memory://", space, name]),
                "rockbot, RabbitMQ + SQLite": ("rockbot_turns", [url, f"sqlite:///{folder / 'own.db'}", space, name]),
                "LangGraph, SQLite checkpointer": ("lang_graph", [str(folder / "graph.db")]),
                "pydantic-ai, DBOS on SQLite": ("pydantic_ai_dbos", [str(folder / "dbos.db")]),
            }
            order = list(contenders)
            for contender in order[number % len(order) :] + order[: number % len(order)]:
                module, arguments = contenders[contender]
                result = run(module, [*arguments, str(turns)])
                samples.setdefault(contender, []).append(result["turns"])
    return samples
