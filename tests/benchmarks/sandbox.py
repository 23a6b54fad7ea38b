"""The sandbox part: one script after the other through the runner, workers warm, as a tool call waits for it.

Measured is wall time, because that is what a turn waits. The ratio to the same round's bare decoding is made of the
shortest trip, the only one that says little about what else the machine was doing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Final

from rockbot_scripts.contract import Language, ScriptInvoke
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.pool import WasmPool
from tests.benchmarks.embedded import bare_decode

__all__ = ["measure"]

_CODE: Final[dict[Language, str]] = {
    "python": "total = sum(n * n for n in range(100))\nprint(total)\ntotal",
    "javascript": "let total = 0; for (let n = 0; n < 100; n++) total += n * n; console.log(total); total",
}
_EXPECTED: Final = "328350"
_WARM_UP: Final = 10


def measure(*, rounds: int, runs: int, say: Callable[[str], None]) -> dict[str, list[dict[str, float]]]:
    """Median, 95th percentile and shortest in milliseconds, per language and round."""
    return asyncio.run(_measure(rounds, runs, say))


async def _measure(rounds: int, runs: int, say: Callable[[str], None]) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {language: [] for language in _CODE}
    # Workers are replaced after so many runs; replacing one is not part of a warm round trip.
    pool = WasmPool(ScriptSettings(recycle_after=1_000_000))
    await pool.start()
    try:
        for number in range(rounds):
            say(f"sandbox round {number + 1} of {rounds}")
            decode_us = bare_decode(10_000)
            for language, code in _CODE.items():
                invoke = ScriptInvoke(language=language, code=code)
                times = [await _run(pool, invoke) for _ in range(_WARM_UP + runs)][_WARM_UP:]
                p95 = quantiles(times, n=20)[-1]
                sample = {"median_ms": median(times), "p95_ms": p95, "best_ms": min(times), "decode_us": decode_us}
                samples[language].append(sample)
    finally:
        await pool.close()
    return samples


async def _run(pool: WasmPool, invoke: ScriptInvoke) -> float:
    begun = time.perf_counter()
    result = await pool.run(invoke)
    elapsed = (time.perf_counter() - begun) * 1000
    if result.status != "ok" or result.value != _EXPECTED:
        raise RuntimeError(f"the {invoke.language} script ended with {result.status}: {result.message}")
    return elapsed
