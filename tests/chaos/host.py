"""One host of the chaos test: ``host.py SETTINGS``. SIGUSR1 breaks its connections, SIGTERM drains it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos.work import plugin

from rockbot.buses import make_bus
from rockbot.container import compose
from rockbot.plugins import load_plugins
from rockbot.settings import load
from rockbot.signals import stop_on_signals
from rockbot.state.open import open_store
from rockbot_messaging.clock import RandomIds, SystemClock


async def main() -> None:
    settings = load(config=Path(sys.argv[1]))
    clock, ids = SystemClock(), RandomIds()
    store = open_store(settings.state_address, clock)
    bus = make_bus(settings, clock=clock, ids=ids, patience=60)
    plugins = [*load_plugins(("logging", "deduplication")), ("chaos", plugin)]
    container = compose(settings, bus=bus, store=store, plugins=plugins)
    host = container.host()
    with stop_on_signals() as stop:
        await host.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, bus.inner.cut)  # type: ignore[attr-defined]
        print("consuming", flush=True)
        await stop.wait()
        await host.drain()
        await host.close()


asyncio.run(main())
