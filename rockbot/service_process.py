"""A service alone as a process, and what an embedded host runs of one.

Apart from `rockbot.processes`, because a service needs nothing of what a host is made of, and would take as long to start.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from rockbot.buses import check_role, is_embedded, make_bus
from rockbot.errors import ConfigError, RockBotError
from rockbot.health import Health, HealthServer
from rockbot.letters.recording import LetterRecorder
from rockbot.machines.recovery import repeat
from rockbot.presence import REFRESH_SECONDS, Presence, process_owner
from rockbot.services import Service, ServiceSurroundings, load_service
from rockbot.settings import Settings
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.ledger import StateLedger
from rockbot.state.marks import StateStartMarks
from rockbot.state.open import open_store
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

__all__ = ["build_service", "prepare_service", "run_service", "service_regulation"]

logger = logging.getLogger(__name__)


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
        await prepare_service(name, service)
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


async def prepare_service(name: str, service: Service) -> None:
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
