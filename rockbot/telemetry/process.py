"""What one process tells of itself, put together once: where it counts, where spans go, and what is sent while it runs.

Nothing of OpenTelemetry is imported here, nor by what is switched off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from rockbot.settings import Settings
from rockbot.telemetry.exposition import Exposition, exposition_of
from rockbot_messaging.measures import NO_MEASURES, Counters, Measures
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["Telemetry", "telemetry_of"]


@final
class Telemetry:
    """Counts, spans, and their way out.

    `send` sends what was counted, every `every` seconds (None: it is only scraped); `flush` sends what is left. Both may
    block, so they run in threads. The broker is asked for the depths of queues every `queues_every` seconds (0: never).
    """

    def __init__(
        self,
        measures: Measures,
        tracing: Tracing = NO_TRACING,
        *,
        send: Callable[[Counters], None] | None = None,
        every: float = 0,
        flush: Callable[[], None] | None = None,
        queues_every: float = 0,
    ) -> None:
        self.measures = measures
        self.tracing = tracing
        self.exposition: Exposition | None = exposition_of(measures)
        self.every = every
        self.queues_every = queues_every
        self._send = send
        self._flush = flush

    @property
    def sends(self) -> bool:
        """Whether counts are sent."""
        return self._send is not None

    async def push(self) -> None:
        """Send what was counted so far."""
        if self._send is not None and self.exposition is not None:
            self.exposition.refresh()
            await asyncio.to_thread(self._send, self.exposition.counters.copy())

    async def close(self) -> None:
        """Send what is left; idempotent."""
        await self.push()
        self._send = None
        flush, self._flush = self._flush, None
        if flush is not None:
            await asyncio.to_thread(flush)


def telemetry_of(settings: Settings) -> Telemetry:
    """What these settings switch on.

    Raises:
        MissingExtra: it needs packages that are not installed.
    """
    wanted = settings.telemetry
    measures = NO_MEASURES if wanted.metrics == "off" else Counters()
    if not wanted.traces and wanted.metrics != "push":
        return Telemetry(measures, queues_every=wanted.queue_seconds)
    from rockbot.telemetry import setup

    return setup.open_telemetry(settings, measures)
