"""Running one contender: a process of its own, in the environment that it needs.

What others need is heavy and has a lock of its own (`requirements/bench.txt`), which `make bench` installs beside what the
project needs; our own contenders, and the client libraries below us, run where the project runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["run"]

_OTHERS: Final = frozenset(
    {"fast_stream", "dramatiq_worker", "celery_worker", "taskiq_worker", "lang_graph", "pydantic_ai_dbos"}
)
_SECONDS: Final = 120


def run(module: str, arguments: list[str]) -> dict[str, dict[str, float]]:
    """The results by name that a contender reports.

    Raises:
        RuntimeError: it failed, or what it needs is not installed; the text says how to.
    """
    done = subprocess.run(
        [_python(module), "-m", f"tests.benchmarks.contenders.{module}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {arguments[0]} ended with exit code {done.returncode}:\n{done.stdout}")
    result: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def _python(module: str) -> str:
    if module not in _OTHERS:
        return sys.executable
    python = Path(sys.prefix) / "bench" / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{module} needs requirements/bench.txt, which `make bench` installs")
    return str(python)
