"""One host whose handler kills the process when the message says so.

    poison_child.py BROKER NAMESPACE STATE TRACE

The trace file gets a line per message handled to its end, and ``begun`` and ``killed`` before the process dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

from rockbot.buses import make_bus
from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.plugins import Contribution, Link, Services
from rockbot.settings import Settings
from rockbot.signals import stop_on_signals
from rockbot.state.open import open_store
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.subscriptions import WorkSubscription

PREFETCH = 100


class Job(Event):
    type_name: ClassVar[str] = "test.job"
    topics: ClassVar[tuple[str, ...]] = ("test.job",)
    kills: bool = False


class Jobs:
    """Handles jobs, all that are prefetched at the same time."""

    handles = (Job,)

    def __init__(self, trace: Path) -> None:
        self._file = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def handle(self, event: Job, context: Context, call_next: CallNext) -> None:
        envelope = context.envelope
        if event.kills:
            # Whatever else was begun in this turn of the loop is under way when the process dies.
            await asyncio.sleep(0)
            self._note(killed=envelope.message_id, redelivered=envelope.redelivered)
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.01)  # work takes time; time is what the neighbours of a killer do not get
        self._note(handled=envelope.message_id)

    def _note(self, **fields: object) -> None:
        os.write(self._file, json.dumps(fields).encode() + b"\n")


async def main() -> None:
    broker, namespace, state, trace = sys.argv[1:5]
    settings = Settings(broker_url=broker, namespace=namespace, state_url=state)  # type: ignore[arg-type]
    clock = SystemClock()
    work = WorkSubscription(name="jobs", patterns=("test.job",), prefetch=PREFETCH)

    def plugin(services: Services) -> Contribution:
        link = Link(Order.WORK, "jobs", Jobs(Path(trace)))
        return Contribution(links=(link,), subscriptions=(work,), events=(Job,))

    container = compose(
        settings,
        bus=make_bus(settings, clock=clock, ids=RandomIds()),
        store=open_store(settings.state_address, clock),
        plugins=[("jobs", plugin)],
    )
    with stop_on_signals() as stop:
        await container.host().run(stop)


if __name__ == "__main__":
    asyncio.run(main())
