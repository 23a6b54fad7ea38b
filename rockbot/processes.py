"""The processes one can start: a host for a broker, a service alone, or everything in one.

Each opens what it needs, runs until it is told to stop, drains and closes; signals are the caller's (`rockbot.signals`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Self, final

from rockbot.buses import check_role, is_embedded, make_bus
from rockbot.container import HostContainer, compose, known_work, process_owner
from rockbot.errors import ConfigError, RockBotError
from rockbot.health import Health, HealthServer
from rockbot.host import Host
from rockbot.letters.recording import LetterRecorder
from rockbot.machines.recovery import repeat
from rockbot.presence import REFRESH_SECONDS, Presence
from rockbot.services import Service, ServiceSurroundings, load_service
from rockbot.settings import Settings
from rockbot.signals import reload_on_hangup
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.ledger import StateLedger
from rockbot.state.marks import StateStartMarks
from rockbot.state.open import open_store, sqlite_path
from rockbot.state.ports import StateError, StateStore
from rockbot.subscribing import adjusted
from rockbot.telemetry.exposition import tell_health
from rockbot.telemetry.process import Telemetry, telemetry_of
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import traced

__all__ = [
    "Embedded",
    "build_service",
    "compose_host",
    "run_host",
    "run_service",
]

logger = logging.getLogger(__name__)

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
    with reload_on_hangup(container.roster()):
        await container.host().run(stop)


def service_regulation(
    name: str, settings: Settings, *, bus: MessageBus, store: StateStore, telemetry: Telemetry
) -> Regulation:
    """What goes around the handlers of a service that stands on this bus and this store."""
    return Regulation(
        clock=SystemClock(),
        measures=telemetry.measures,
        marks=StateStartMarks(store),
        publish=bus.publisher.publish,
        source=_source(name, settings),
        tracing=telemetry.tracing,
    )


def build_service(
    name: str,
    settings: Settings,
    *,
    bus: MessageBus,
    ledger: ResultLedger,
    owner: str | None = None,
    regulation: Regulation | None = None,
    telemetry: Telemetry | None = None,
) -> Service:
    """A service from its section of the settings.

    `owner` None is a name that nobody else has; `regulation` None is one that counts nowhere and marks no starts;
    `telemetry` None counts and traces nothing.

    Raises:
        ConfigError: the section is wrong; the text names the key. MissingExtra.
    """
    source = _source(name, settings)
    telemetry = telemetry or Telemetry(NO_MEASURES)

    def configure(subscription: WorkSubscription) -> WorkSubscription:
        return adjusted(subscription, settings.subscriptions)

    surroundings = ServiceSurroundings(
        bus=bus,
        ledger=ledger,
        clock=SystemClock(),
        owner=owner or process_owner(RandomIds()),
        source=source,
        namespace=settings.namespace,
        regulation=regulation or Regulation(clock=SystemClock(), publish=bus.publisher.publish, source=source),
        configure=configure,
        measures=telemetry.measures,
        tracing=telemetry.tracing,
    )
    section = getattr(settings, name, {})
    try:
        service = load_service(name)(section, surroundings)
    except ValueError as exc:
        raise ConfigError(f"the settings section [{name}] is wrong: {_first_line(exc)}") from None
    if telemetry.exposition is not None:
        telemetry.exposition.add(service.measure)
    return service


async def run_service(name: str, settings: Settings, *, stop: asyncio.Event) -> None:
    """One service for a broker, until `stop`.

    Raises:
        ConfigError: also for ``memory://``. BrokerUnreachable, StateUnavailable; what the service's start raises.
    """
    if is_embedded(settings):
        raise ConfigError(
            f"service {name!r} alone needs a broker: set --broker amqp://...; `rockbot up` runs it embedded"
        )
    check_role(settings)
    clock, ids, telemetry = SystemClock(), RandomIds(), telemetry_of(settings)
    store = open_store(settings.state_address, clock)
    recorder = LetterRecorder(store, measures=telemetry.measures)
    bus = make_bus(
        settings,
        clock=clock,
        ids=ids,
        artifacts=StateArtifacts(store, keep_days=settings.artifacts.keep_days),
        measures=telemetry.measures,
        observer=recorder,
    )
    bus = traced(bus, telemetry.tracing)
    owner = process_owner(ids)
    regulation = service_regulation(name, settings, bus=bus, store=store, telemetry=telemetry)
    service = build_service(
        name,
        settings,
        bus=bus,
        ledger=StateLedger(store),
        owner=owner,
        regulation=regulation,
        telemetry=telemetry,
    )
    presence = Presence(
        store,
        bus,
        owner=owner,
        what=name,
        subscriptions=lambda: [item.name for item in service.subscriptions],
        outages=regulation.outages,
    )
    health = Health(bus)
    health.watch(regulation.outages)
    metrics = telemetry.exposition
    if metrics is not None:
        names = [item.name for item in service.subscriptions]
        metrics.add(lambda: tell_health(metrics.counters, bus.health, lambda: names))
    server = HealthServer(health, host=settings.host.health_host, port=settings.host.health_port, metrics=metrics)
    try:
        await server.start()
        await store.open()
        recorder.start()
        await _prepare(name, service)
        await bus.open()
        await service.start()
        health.started = True
        logger.info("service consumes", extra={"service": name})
        async with asyncio.TaskGroup() as group:
            if telemetry.sends:
                group.create_task(repeat("send metrics", telemetry.push, every=telemetry.every, stop=stop))
            group.create_task(repeat("presence", presence.run_once, every=REFRESH_SECONDS, stop=stop))
        with suppress(StateError):  # it ends by itself
            await presence.leave()
    finally:
        health.draining = True
        await service.stop(timeout=settings.host.drain_seconds)
        await bus.close()
        await recorder.close()
        await store.close()
        await server.close()
        await telemetry.close()


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
                    group.create_task(_prepare(name, service))
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


async def _prepare(name: str, service: Service) -> None:
    """As `Service.prepare`; what it raises is told as one of ours, because the host knows no service's errors."""
    try:
        await service.prepare()
    except RockBotError:
        raise
    except Exception as exc:
        kind = ConfigError if getattr(exc, "extra", "") else RockBotError
        raise kind(f"service {name!r} cannot start: {exc}") from exc


def _source(name: str, settings: Settings) -> str:
    return f"{settings.source}-{name}"


def _first_line(exc: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(exc, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        )
    return str(exc)
