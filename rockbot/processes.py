"""The processes of a host: one for a broker, or everything in one. A service alone is in `rockbot.service_process`.

Each opens what it needs, runs until it is told to stop, drains and closes; signals are the caller's (`rockbot.signals`).
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Self, final

from rockbot.buses import check_role, is_embedded, make_bus
from rockbot.container import HostContainer, compose, known_work
from rockbot.errors import ConfigError
from rockbot.host import Host
from rockbot.letters.recording import LetterRecorder
from rockbot.service_process import build_service, prepare_service, service_regulation
from rockbot.services import Service
from rockbot.settings import Settings
from rockbot.signals import reload_on_hangup
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.open import open_store, sqlite_path
from rockbot.telemetry.process import telemetry_of
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.tracing import traced

__all__ = ["Embedded", "compose_host", "keep_what_is_there", "run_host"]

#: Services that an embedded host runs beside itself.
_EMBEDDED_SERVICES = ("scripts",)


def compose_host(settings: Settings, *, bus: MessageBus | None = None) -> HostContainer:
    """A host wired from settings alone; nothing is opened.

    Raises:
        ConfigError, MissingExtra: as `rockbot.container.compose`, `rockbot.buses.make_bus`.
    """
    clock, ids, telemetry = SystemClock(), RandomIds(), telemetry_of(settings)
    store = open_store(settings.state_address, clock)
    recorder: LetterRecorder | None = None
    if bus is None:
        recorder = LetterRecorder(store, measures=telemetry.measures)
        bus = make_bus(
            settings,
            clock=clock,
            ids=ids,
            durable=sqlite_path(settings.state_address) if is_embedded(settings) else None,
            artifacts=StateArtifacts(store, keep_days=settings.artifacts.keep_days),
            measures=telemetry.measures,
            observer=recorder,
        )
    bus = traced(bus, telemetry.tracing)
    return compose(settings, bus=bus, store=store, telemetry=telemetry, recorder=recorder)


async def run_host(settings: Settings, *, stop: asyncio.Event) -> None:
    """A host for a broker, until `stop`.

    Raises:
        ConfigError: also for ``memory://``, which only this process could reach. BrokerUnreachable, StateUnavailable.
    """
    if is_embedded(settings):
        raise ConfigError(
            "a host alone needs a broker: set --broker amqp://... (ROCKBOT_BROKER_URL), or use `rockbot up` for an embedded one"
        )
    check_role(settings)
    container = compose_host(settings)
    host = container.host()
    host.when_warm(keep_what_is_there)
    with reload_on_hangup(container.roster()):
        await host.run(stop)


def keep_what_is_there() -> None:
    """For a process that is a host's alone: what is loaded stays until its end.

    Modules and what they define are some hundred thousand objects; a collector that looks through them again and again makes
    every message in hand wait for tens of milliseconds.
    """
    gc.freeze()


@final
class Embedded:
    """Host, bus, state and services in this process; an async context manager.

    Messages and state live in one SQLite file (unless the state is ``memory://``), so that what was accepted before a
    crash goes on at the next start.
    """

    def __init__(self, settings: Settings) -> None:
        if not is_embedded(settings):
            raise ConfigError("`rockbot up` brings its own bus; for a broker use `rockbot run` and `rockbot scripts`")
        self.settings = settings
        clock, ids, telemetry = SystemClock(), RandomIds(), telemetry_of(settings)
        self._store = open_store(settings.state_address, clock)
        durable: Path | None = sqlite_path(settings.state_address)
        recorder = LetterRecorder(self._store, measures=telemetry.measures)
        bus = make_bus(
            settings,
            clock=clock,
            ids=ids,
            durable=durable,
            artifacts=StateArtifacts(self._store, keep_days=settings.artifacts.keep_days),
            measures=telemetry.measures,
            observer=recorder,
        )
        self.bus = traced(bus, telemetry.tracing)
        self.container = compose(settings, bus=self.bus, store=self._store, telemetry=telemetry, recorder=recorder)
        self.host: Host = self.container.host()
        self.work = known_work(self.container)
        self.services = {name: self._service(name) for name in _EMBEDDED_SERVICES if name in settings.handlers}

    def _service(self, name: str) -> Service:
        telemetry = self.container.telemetry()
        regulation = service_regulation(name, self.settings, bus=self.bus, store=self._store, telemetry=telemetry)
        self.host.health.watch(regulation.outages)
        ledger = self.container.ledger()
        return build_service(
            name, self.settings, bus=self.bus, ledger=ledger, regulation=regulation, telemetry=telemetry
        )

    async def __aenter__(self) -> Self:
        try:
            # Starting sandbox workers takes longest and needs nothing else.
            async with asyncio.TaskGroup() as group:
                for name, service in self.services.items():
                    group.create_task(prepare_service(name, service))
                group.create_task(self.host.start())
            for service in self.services.values():
                await service.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        await self.host.drain()
        for service in self.services.values():
            await service.stop(timeout=self.settings.host.drain_seconds)
        await self.host.close()
