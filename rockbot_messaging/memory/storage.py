"""The port through which the in-memory provider writes through, so that embedded mode loses nothing.

What lies in durable queues is a table of rows: accepted, delayed and dead messages. The broker works in memory and asks
for each change to be durable before anybody is told of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, final

__all__ = ["BusStorage", "Place", "Row"]


class Place(StrEnum):
    """Where in its queue a message lies."""

    READY = "ready"
    DELAYED = "delayed"
    DEAD = "dead"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One message. `number` is unique and grows; `due_ms` is the end of a delay; `failure` is JSON, of dead ones only."""

    number: int
    queue: str
    place: Place
    envelope: bytes
    due_ms: int | None = None
    failure: str | None = None
    problem: str = ""


class BusStorage(Protocol):
    """Rows that survive the process. One broker at a time has it open; used from one event loop."""

    async def open(self) -> list[Row]:
        """Take possession and return every row, by number.

        Raises:
            BrokerUnreachable: it cannot be opened, or another process has it; the text says what to do.
        """
        ...

    def apply(self, puts: Sequence[Row], removals: Sequence[int]) -> asyncio.Future[None]:
        """Write rows (replacing those of the same number) and remove others, all or nothing.

        The future is done when the change is durable; changes take effect in the order of the calls. It fails with
        `NotConfirmed`. Whoever awaits it must shield it: a change that was asked for is made.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked for and let go; idempotent."""
        ...
