"""`python -m tests.benchmarks.conversation`: what a step of a very long conversation costs, and what it takes to load one.

The store is SQLite in a temporary folder. Bytes are exact; times are this machine's, now.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_TESTS: Final = Path(__file__).parents[1]
#: Steps around which costs are printed; each figure is the mean of the steps up to this one.
_SHOWN: Final = (10, 100, 1000)
#: Records that one step writes: reply, calls, result, next call.
_RECORDS: Final = 4
_MEAN_OF: Final = 30


async def _run(events: int) -> None:
    from machines.long_talk import STREAM, Cost, LongTalk
    from machines.stage import CONVERSATION

    from rockbot.machines.transcript import Transcripts
    from rockbot.state.sqlite import SqliteStateStore
    from rockbot_messaging.clock import SystemClock

    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStateStore(Path(folder) / "state.db", clock)
        await store.open()
        try:
            talk = LongTalk(store, clock, text="x" * 300)
            await talk.begin()
            costs: list[Cost] = []
            times: list[float] = []
            for _ in range(events // _RECORDS):
                begun = time.perf_counter()
                costs.append(await talk.step())
                times.append(time.perf_counter() - begun)
            print(f"{'step':>6}  {'published':>10}  {'stored':>10}  {'read':>10}  {'snapshot':>10}  {'ms':>7}")
            for step in (*_SHOWN, len(costs)):
                part = slice(max(0, step - _MEAN_OF), step)
                means = [
                    statistics.mean(getattr(cost, name) for cost in costs[part])
                    for name in ("published", "stored", "loaded", "snapshot")
                ]
                figures = "  ".join(f"{mean:>10,.0f}" for mean in means)
                print(f"{step:>6}  {figures}  {1000 * statistics.median(times[part]):>7.2f}")
            state = await _timed("the state", talk.engine.state(STREAM))
            request = await talk.request()
            reader = Transcripts(store)
            read = reader.whole(request, tenant="default", conversation_id=CONVERSATION)
            whole = await _timed("the whole transcript, nothing cached", read)
            await _timed(
                "the whole transcript, cached", reader.whole(request, tenant="default", conversation_id=CONVERSATION)
            )
            print(f"{state[1]:,} events, {len(whole.messages):,} messages")
        finally:
            await store.close()


async def _timed(what: str, work: Awaitable[T]) -> T:
    begun = time.perf_counter()
    done = await work
    print(f"{1000 * (time.perf_counter() - begun):8.1f} ms  {what}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.conversation", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000, help="journal records of the conversation (10,000)")
    options = parser.parse_args()
    sys.path.insert(0, str(_TESTS))
    asyncio.run(_run(options.events))


if __name__ == "__main__":
    main()
