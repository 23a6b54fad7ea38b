"""Runs of scripts, as they are counted and traced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.tracing import Tracing
from rockbot_scripts.contract import ScriptInvoke, ScriptResult
from rockbot_scripts.ports import ScriptRunner

__all__ = ["MeasuredRunner"]

#: Ends that are a script's own doing: it ran.
_RAN: Final = ("ok",)


@final
class MeasuredRunner:
    """Implements `ScriptRunner` around another one."""

    def __init__(self, inner: ScriptRunner, *, clock: Clock, measures: Measures, tracing: Tracing) -> None:
        self._inner = inner
        self._clock = clock
        self._measures = measures
        self._tracing = tracing
        self._busy = 0
        self._replaced = 0

    async def start(self) -> None:
        await self._inner.start()

    async def run(
        self,
        invoke: ScriptInvoke,
        *,
        cancel: asyncio.Event | None = None,
        time_left: float | None = None,
    ) -> ScriptResult:
        """As the runner inside; what raises is counted as `unavailable` or `canceled`."""
        runtime, outcome = invoke.language, "unavailable"
        began = self._clock.monotonic()
        self._busy += 1
        with self._tracing.span(f"run_script {runtime}", {"rockbot.script.runtime": runtime}) as span:
            try:
                result = await self._inner.run(invoke, cancel=cancel, time_left=time_left)
                outcome = result.status
            except asyncio.CancelledError:
                outcome = "canceled"
                raise
            finally:
                self._busy -= 1
                self._measures.count(Names.SCRIPT_RUNS, 1, runtime=runtime, outcome=outcome)
                self._measures.observe(Names.SCRIPT_DURATION, self._clock.monotonic() - began, runtime=runtime)
            span.set({"rockbot.script.outcome": outcome, "rockbot.script.engine": result.engine})
            if outcome not in _RAN:
                span.failed(outcome)
        return result

    def measure(self) -> None:
        """Tell the measures how the sandboxes are."""
        workers = self._inner.describe().get("workers")
        if not isinstance(workers, Mapping):
            return
        ready, replaced = int(workers.get("ready", 0)), int(workers.get("replaced", 0))
        self._measures.gauge(Names.SCRIPT_WORKERS, ready, state="ready")
        self._measures.gauge(Names.SCRIPT_WORKERS, max(0, int(workers.get("size", 0)) - ready), state="missing")
        self._measures.gauge(Names.SCRIPT_WORKERS, self._busy, state="busy")
        self._measures.count(Names.SCRIPT_REPLACED, replaced - self._replaced)
        self._replaced = replaced

    def describe(self) -> Mapping[str, object]:
        return self._inner.describe()

    async def close(self) -> None:
        await self._inner.close()
