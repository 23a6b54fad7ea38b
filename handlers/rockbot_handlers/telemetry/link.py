"""How long messages are handled, by where they came from and what they are; whatever comes of them."""

from __future__ import annotations

from typing import final

from rockbot.context import Context
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot_messaging.measures import Measures, Names

__all__ = ["TelemetryLink"]


@final
class TelemetryLink:
    """Passes everything on and raises whatever comes back."""

    def __init__(self, measures: Measures) -> None:
        self._observe = measures.observe

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        monotonic, envelope = context.clock.monotonic, context.envelope
        if envelope.attempt == 1 and envelope.timestamp_ms:
            waited = max(0, context.clock.now_ms() - envelope.timestamp_ms) / 1000
            self._observe(Names.QUEUE_WAIT, waited, subscription=context.subscription)
        began = monotonic()
        try:
            await call_next(event, context)
        finally:
            took = monotonic() - began
            self._observe(Names.HANDLED, took, subscription=context.subscription, event=event.type_name)
