"""From settings to an operator: over the socket of a running `rockbot up`, or over a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from rockbot.buses import is_embedded, make_bus
from rockbot.errors import MissingExtra
from rockbot.history import History
from rockbot.letters.desk import LetterDesk
from rockbot.operator import Operator
from rockbot.operators.bus import BusOperator
from rockbot.operators.models import Pipeline
from rockbot.settings import Settings
from rockbot.state.ports import StateError
from rockbot.turns.desk import TurnDesk
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.ports import MessageBus

if TYPE_CHECKING:
    from rockbot.container import HostContainer
    from rockbot.operators.checks import Probe
    from rockbot.processes import Embedded

__all__ = ["embedded_operator", "local_pipeline", "open_operator", "pipeline_of"]

#: Seconds that a person waits for a broker that does not answer; a host waits longer.
_PATIENCE: Final = 5.0


@asynccontextmanager
async def open_operator(settings: Settings, *, composed: bool = False, stored: bool = False) -> AsyncIterator[Operator]:
    """An operator for the length of a block.

    `composed` says that dead letters, tasks or the pipeline will be asked for: over a broker this process then has to know the
    host's subscriptions, which it builds from the settings, and opens the state store they name for the index of letters.
    `stored` says that only what is in that store will be asked for: no broker is needed then, so that turns can be looked at
    while it is away.

    Raises:
        ConfigError, MissingExtra, BrokerUnreachable. (A socket nobody listens on is found out by the first call.)
    """
    operator: Operator
    if is_embedded(settings):
        operator = _socket_operator(settings)
    else:
        operator = await _bus_operator(settings, composed=composed or stored, connected=not stored)
    try:
        yield operator
    finally:
        await operator.close()


def pipeline_of(container: HostContainer, settings: Settings) -> Pipeline:
    """How a composed host handles messages."""
    from rockbot.buses import describe_layers
    from rockbot.failures import describe_failures

    contributions = container.contributions()
    return Pipeline.describe(
        chain=container.chain().describe(),
        failures=describe_failures(),
        subscriptions=contributions.subscriptions,
        addressed=contributions.addressed,
        namespace=settings.namespace,
        layers=describe_layers(settings),
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
    from rockbot.operators.agent_checks import agents_probe
    from rockbot.operators.backend_checks import backends_probe
    from rockbot.operators.outage_checks import outage_probe
    from rockbot.operators.probes import service_probe, state_probe

    settings, container = embedded.settings, embedded.container
    probes = [state_probe(container.store(), settings.state_address)]
    probes += [service_probe(name, service) for name, service in embedded.services.items()]
    probes += [probe(container.store()) for probe in (outage_probe, agents_probe, backends_probe)]
    return BusOperator(
        embedded.bus,
        clock=SystemClock(),
        ids=RandomIds(),
        source=_source(settings),
        history=History(container.store()),
        dead_letters=(letters := _desk(container, embedded.bus, settings)),
        turns=_turns(container, letters),
        pipeline=pipeline_of(container, settings),
        probes=probes,
    )


def _socket_operator(settings: Settings) -> Operator:
    try:
        from rockbot.gateway.client import SocketOperator
    except ModuleNotFoundError as exc:
        raise MissingExtra("talking to an embedded host", "gateway") from exc
    return SocketOperator(settings.socket_path)


async def _bus_operator(settings: Settings, *, composed: bool, connected: bool) -> BusOperator:
    clock, ids = SystemClock(), RandomIds()
    if not composed:
        bus = make_bus(settings, clock=clock, ids=ids, patience=_PATIENCE)
        await bus.open()
        return BusOperator(bus, clock=clock, ids=ids, source=_source(settings), on_close=bus.close)
    from rockbot.container import known_work
    from rockbot.operators.agent_checks import agents_probe
    from rockbot.operators.backend_checks import backends_probe
    from rockbot.operators.outage_checks import outage_probe
    from rockbot.processes import compose_host

    container = compose_host(settings)
    store = container.store()
    bus = make_bus(settings, clock=clock, ids=ids, work=known_work(container), patience=_PATIENCE)

    async def close() -> None:
        await bus.close()
        await store.close()

    dead_letters: LetterDesk | StateError
    history: History | StateError
    turns: TurnDesk | StateError
    probes: list[Probe] = []
    try:
        await store.open()
        dead_letters, history = _desk(container, bus, settings), History(store)
        turns = _turns(container, dead_letters)
        probes += [probe(store) for probe in (outage_probe, agents_probe, backends_probe)]
    except StateError as exc:
        dead_letters = history = turns = exc
    try:
        if connected:
            await bus.open()
    except BaseException:
        await close()
        raise
    return BusOperator(
        bus,
        clock=clock,
        ids=ids,
        source=_source(settings),
        dead_letters=dead_letters,
        history=history,
        turns=turns,
        pipeline=pipeline_of(container, settings),
        probes=probes,
        on_close=close,
    )


def _desk(container: HostContainer, bus: MessageBus, settings: Settings) -> LetterDesk:
    """The dead-letter service of a composition, over `bus` and the composition's store."""
    from rockbot.letters.service import LetterService

    return LetterService(
        letters=bus.dead_letters,
        publisher=bus.publisher,
        store=container.store(),
        clock=container.clock(),
        ids=container.ids(),
        owner=container.owner(),
        namespace=settings.namespace,
        source=_source(settings),
        registry=container.registry(),
        measures=container.measures(),
        settings=settings.letters,
    )


def _turns(container: HostContainer, letters: LetterDesk) -> TurnDesk:
    """Turns of a composition's store."""
    from rockbot.turns.service import TurnService

    return TurnService(container.store(), ids=container.ids(), letters=letters)


def _source(settings: Settings) -> str:
    return f"{settings.source}-cli"
