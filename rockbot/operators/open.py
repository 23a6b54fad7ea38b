"""From settings to an operator: over the socket of a running `rockbot up`, or over a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from rockbot.buses import is_embedded, make_bus
from rockbot.errors import MissingExtra
from rockbot.operator import Operator
from rockbot.operators.bus import BusOperator
from rockbot.operators.models import Pipeline
from rockbot.settings import Settings
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.subscriptions import WorkSubscription

if TYPE_CHECKING:
    from rockbot.container import HostContainer
    from rockbot.processes import Embedded

__all__ = ["embedded_operator", "local_pipeline", "open_operator", "pipeline_of"]

#: Seconds that a person waits for a broker that does not answer; a host waits longer.
_PATIENCE: Final = 5.0


@asynccontextmanager
async def open_operator(settings: Settings, *, composed: bool = False) -> AsyncIterator[Operator]:
    """An operator for the length of a block.

    `composed` says that dead letters or the pipeline will be asked for: over a broker this process then has to know the
    host's subscriptions, and builds them from the settings.

    Raises:
        ConfigError, MissingExtra, BrokerUnreachable. (A socket nobody listens on is found out by the first call.)
    """
    operator = _socket_operator(settings) if is_embedded(settings) else await _bus_operator(settings, composed=composed)
    try:
        yield operator
    finally:
        await operator.close()


def pipeline_of(container: HostContainer, settings: Settings) -> Pipeline:
    """How a composed host handles messages."""
    from rockbot.failures import describe_failures

    contributions = container.contributions()
    return Pipeline.describe(
        chain=container.chain().describe(),
        failures=describe_failures(),
        subscriptions=contributions.subscriptions,
        addressed=contributions.addressed,
        namespace=settings.namespace,
    )


def local_pipeline(settings: Settings) -> Pipeline:
    """How a host with these settings would handle messages; nothing is opened.

    Raises:
        ConfigError, MissingExtra: it could not be composed.
    """
    from rockbot.processes import compose_host

    return pipeline_of(compose_host(settings), settings)


def embedded_operator(embedded: Embedded) -> BusOperator:
    """The operator inside an embedded host; the host stays the caller's to close."""
    from rockbot.operators.probes import service_probe, state_probe

    settings, container = embedded.settings, embedded.container
    probes = [state_probe(container.store(), settings.state_address)]
    probes += [service_probe(name, service) for name, service in embedded.services.items()]
    return BusOperator(
        embedded.bus,
        clock=SystemClock(),
        ids=RandomIds(),
        source=f"{settings.source}-cli",
        pipeline=pipeline_of(container, settings),
        probes=probes,
    )


def _socket_operator(settings: Settings) -> Operator:
    try:
        from rockbot.gateway.client import SocketOperator
    except ModuleNotFoundError as exc:
        raise MissingExtra("talking to an embedded host", "gateway") from exc
    return SocketOperator(settings.socket_path)


async def _bus_operator(settings: Settings, *, composed: bool) -> BusOperator:
    clock, ids = SystemClock(), RandomIds()
    pipeline: Pipeline | None = None
    work: tuple[WorkSubscription, ...] = ()
    if composed:
        from rockbot.container import known_work
        from rockbot.processes import compose_host

        container = compose_host(settings)
        pipeline, work = pipeline_of(container, settings), tuple(known_work(container))
    bus = make_bus(settings, clock=clock, ids=ids, work=work, patience=_PATIENCE)
    await bus.open()
    return BusOperator(
        bus, clock=clock, ids=ids, source=f"{settings.source}-cli", pipeline=pipeline, on_close=bus.close
    )
