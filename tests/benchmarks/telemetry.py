"""The part `telemetry`: what a step of a turn costs when it is counted, and when it is traced and sent, beside nothing of both.

The same host runs the same loop three times in every round; spans and counts go over HTTP to a collector that takes
everything and looks at nothing. What the exporter's thread computes is in the figures, what the collector does is not.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from tests.benchmarks.loop import STEPS
from tests.benchmarks.running import run

__all__ = ["measure"]


def measure(url: str, *, rounds: int, turns: int, say: Callable[[str], None]) -> dict[str, list[dict[str, float]]]:
    """Milliseconds per two steps of `turns` turns, by what is told and per round; over RabbitMQ at `url`, and in memory."""
    samples: dict[str, list[dict[str, float]]] = {}
    with _collector() as endpoint:
        # Twice as many rounds as elsewhere: what is looked for is smaller than what one round differs from the next by.
        for number in range(2 * rounds):
            say(f"telemetry round {number + 1} of {2 * rounds} ({turns} turns of {STEPS} model calls each)")
            for where in ("in memory", "RabbitMQ + SQLite"):
                contenders = ["off", "metrics", "metrics and traces"]
                for told in contenders[number % 3 :] + contenders[: number % 3]:
                    samples.setdefault(f"{where}, {told}", []).append(_run(url, where, told, endpoint, number, turns))
    return samples


def _run(url: str, where: str, told: str, endpoint: str, number: int, turns: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rockbot-bench-") as folder:
        space = f"bench-told-{number}-{told.replace(' ', '-')}"
        own = ["memory://", "memory://"] if where == "in memory" else [url, f"sqlite:///{folder}/own.db"]
        return run("rockbot_turns", [*own, space, folder, str(turns), told, endpoint])["turns"]


@contextmanager
def _collector() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
