"""The composition root: the only place that knows how everything fits together.

Everything here is built synchronously and connects nowhere; the host opens what was built. (Asynchronous resources of
dependency-injector make every dependent a future at run time, whatever its type says; so there are none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from rockbot.agents.roster import Roster
from rockbot.artifacts import artifacts_of, sweeps_of
from rockbot.canceling import canceling
from rockbot.chain import Chain
from rockbot.context import Emission
from rockbot.contributions import Contributions, Toolbox
from rockbot.dispatcher import Dispatcher
from rockbot.errors import ConfigError
from rockbot.events import EventRegistry
from rockbot.host import Host, LetterKeeping
from rockbot.inbox import OrderedInboxes
from rockbot.injection import containers, providers
from rockbot.letters.service import LetterService
from rockbot.machines.recovery import OutboxRecovery, TimerSweeper
from rockbot.outgoing import Outgoing
from rockbot.plugin_checks import checked
from rockbot.plugins import Loop, Plugin, Services, Signal, load_plugins
from rockbot.presence import process_owner
from rockbot.receiving import OrderedReceiving, Receiving
from rockbot.settings import Settings
from rockbot.state.desk.retention import history_loops
from rockbot.state.ledger import StateLedger
from rockbot.state.marks import StateStartMarks
from rockbot.state.ports import StateStore
from rockbot.telemetry.process import Telemetry, telemetry_of
from rockbot.telemetry.traced_store import traced_store
from rockbot_messaging.artifacts import ArtifactStore
from rockbot_messaging.canceling import RunningCalls
from rockbot_messaging.clock import Clock, IdSource, RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import Measures
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.regulation import Regulation, StartMarks
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import Tracing

__all__ = ["HostContainer", "compose", "known_work"]


def _signal(bus: MessageBus) -> Signal:
    async def signal(envelope: MessageEnvelope) -> None:
        await bus.publisher.publish(envelope, door=Door.LOSSY)

    return signal


def _sweeps(
    settings: Settings, artifacts: ArtifactStore, clock: Clock, store: StateStore, owner: str
) -> Sequence[Loop]:
    return [*sweeps_of(settings, artifacts, clock), *history_loops(store, settings.history, owner=owner)]


def _registry(contributions: Contributions) -> EventRegistry:
    try:
        return EventRegistry(contributions.events)
    except ValueError as exc:
        raise ConfigError(f"two handlers collide: {exc}") from None


def _chain(contributions: Contributions, registry: EventRegistry) -> Chain:
    return Chain(contributions.links, registry)


def _outgoing(bus: MessageBus, clock: Clock, settings: Settings) -> Outgoing:
    return Outgoing(bus.publisher, clock=clock, source=settings.source)


def _dispatcher(
    registry: EventRegistry, chain: Chain, outgoing: Outgoing, clock: Clock, settings: Settings
) -> Dispatcher:
    return Dispatcher(registry=registry, chain=chain, outgoing=outgoing, clock=clock, source=settings.source)


def _regulation(
    clock: Clock, measures: Measures, marks: StartMarks, outgoing: Outgoing, settings: Settings, tracing: Tracing
) -> Regulation:
    async def publish(notice: MessageEnvelope) -> None:
        await outgoing.send([Emission(notice)])

    return Regulation(
        clock=clock, measures=measures, marks=marks, publish=publish, source=settings.source, tracing=tracing
    )


def _inboxes(
    store: StateStore, bus: MessageBus, clock: Clock, owner: str, measures: Measures, settings: Settings
) -> OrderedInboxes:
    return OrderedInboxes(store, bus, clock=clock, owner=owner, namespace=settings.namespace, measures=measures)


def _receiving(
    dispatcher: Dispatcher, regulation: Regulation, measures: Measures, inboxes: OrderedReceiving | None
) -> Receiving:
    return Receiving(dispatcher, regulation, measures=measures, inboxes=inboxes)


def _recovery(store: StateStore, outgoing: Outgoing, owner: str, settings: Settings) -> OutboxRecovery:
    return OutboxRecovery(store, outgoing, owner=owner, idle=settings.host.recovery_seconds)


def _letters(
    bus: MessageBus,
    store: StateStore,
    clock: Clock,
    ids: IdSource,
    owner: str,
    registry: EventRegistry,
    measures: Measures,
    settings: Settings,
) -> LetterService:
    return LetterService(
        letters=bus.dead_letters,
        publisher=bus.publisher,
        store=store,
        clock=clock,
        ids=ids,
        owner=owner,
        namespace=settings.namespace,
        source=settings.source,
        registry=registry,
        measures=measures,
        settings=settings.letters,
    )


def _host(
    settings: Settings,
    bus: MessageBus,
    store: StateStore,
    receiving: Receiving,
    contributions: Contributions,
    recovery: OutboxRecovery,
    sweeper: TimerSweeper,
    owner: str,
    recorder: LetterKeeping | None,
    letters: LetterService,
    roster: Roster,
    sweeps: Sequence[Loop],
    telemetry: Telemetry,
) -> Host:
    return Host(
        settings=settings.host,
        bus=bus,
        store=store,
        receiving=receiving,
        subscriptions=contributions.subscriptions,
        addressed=contributions.addressed,
        recovery=recovery,
        sweeper=sweeper,
        owner=owner,
        recorder=recorder,
        scan_letters=(letters.scanner.run_once, settings.letters.scan_seconds),
        agents=lambda: roster.status,
        live=contributions.live,
        loops=[*contributions.loops, *sweeps],
        warm_ups=contributions.warm_ups,
        closers=contributions.closers,
        telemetry=telemetry,
    )


class HostContainer(containers.DeclarativeContainer):
    """Registrations of one host. Override any of them in tests: ``container.clock.override(...)``."""

    settings = providers.Dependency(instance_of=Settings)
    bus: providers.Dependency[Any] = providers.Dependency()
    store: providers.Dependency[Any] = providers.Dependency()

    clock: providers.Singleton[Any] = providers.Singleton(SystemClock)
    ids: providers.Singleton[Any] = providers.Singleton(RandomIds)
    owner = providers.Singleton(process_owner, ids)
    ledger: providers.Singleton[Any] = providers.Singleton(StateLedger, store)
    telemetry = providers.Singleton(telemetry_of, settings)
    measures: providers.Singleton[Any] = providers.Singleton(attrgetter("measures"), telemetry)
    tracing: providers.Singleton[Any] = providers.Singleton(attrgetter("tracing"), telemetry)
    toolbox = providers.Singleton(Toolbox)
    roster = providers.Singleton(Roster, settings, clock)
    running = providers.Singleton(RunningCalls)
    signal = providers.Singleton(_signal, bus)
    artifacts: providers.Singleton[Any] = providers.Singleton(artifacts_of, settings, store)
    sweeps = providers.Singleton(_sweeps, settings, artifacts, clock, store, owner)
    traced_state = providers.Singleton(traced_store, store, tracing)
    services = providers.Singleton(
        Services,
        settings=settings,
        state=traced_state,
        ledger=ledger,
        clock=clock,
        ids=ids,
        owner=owner,
        tools=toolbox,
        agents=roster,
        measures=measures,
        tracing=tracing,
        running=running,
        signal=signal,
        artifacts=artifacts,
    )
    #: One provider per plug-in, in the order of the setting `handlers`; filled by `compose`.
    parts = providers.List(providers.Singleton(canceling, services))
    contributions = providers.Singleton(Contributions, parts, toolbox, roster, settings)
    registry = providers.Singleton(_registry, contributions)
    chain = providers.Singleton(_chain, contributions, registry)
    outgoing = providers.Singleton(_outgoing, bus, clock, settings)
    dispatcher = providers.Singleton(_dispatcher, registry, chain, outgoing, clock, settings)
    marks: providers.Singleton[Any] = providers.Singleton(StateStartMarks, store)
    regulation = providers.Singleton(_regulation, clock, measures, marks, outgoing, settings, tracing)
    #: What keeps ordered subscriptions in order (`OrderedReceiving`).
    inboxes: providers.Singleton[Any] = providers.Singleton(_inboxes, store, bus, clock, owner, measures, settings)
    receiving = providers.Singleton(_receiving, dispatcher, regulation, measures, inboxes)
    recovery = providers.Singleton(_recovery, store, outgoing, owner, settings)
    sweeper = providers.Singleton(TimerSweeper, store, outgoing, owner=owner)
    #: What the bus tells of dead letters (`LetterKeeping`), if anything.
    recorder: providers.Object[Any] = providers.Object(None)
    letters = providers.Singleton(_letters, bus, store, clock, ids, owner, registry, measures, settings)
    host = providers.Singleton(
        _host,
        settings,
        bus,
        store,
        receiving,
        contributions,
        recovery,
        sweeper,
        owner,
        recorder,
        letters,
        roster,
        sweeps,
        telemetry,
    )


def compose(
    settings: Settings,
    *,
    bus: MessageBus,
    store: StateStore,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    ledger: ResultLedger | None = None,
    measures: Measures | None = None,
    telemetry: Telemetry | None = None,
    recorder: LetterKeeping | None = None,
    plugins: Sequence[tuple[str, Plugin]] | None = None,
) -> HostContainer:
    """Wire a host; nothing is opened. `ledger` None is one over `store`, `plugins` None those that `handlers` names.

    `telemetry` is what the process tells of itself, None what the settings say, with `measures` to count in if they are given.
    `recorder` is the observer that `bus` was made with, if it keeps letters: the host starts and closes it.

    Raises:
        ConfigError: a handler or tool is unknown, or two collide. MissingExtra: a handler's package is not installed.
    """
    container = HostContainer(settings=settings, bus=bus, store=store)
    if clock is not None:
        container.clock.override(providers.Object(clock))
    if ids is not None:
        container.ids.override(providers.Object(ids))
    if ledger is not None:
        container.ledger.override(providers.Object(ledger))
    if telemetry is None and measures is not None:
        telemetry = Telemetry(measures)
    if telemetry is not None:
        container.telemetry.override(providers.Object(telemetry))
    if recorder is not None:
        container.recorder.override(providers.Object(recorder))
    loaded = load_plugins(settings.handlers) if plugins is None else plugins
    built = (providers.Singleton(checked(name, plugin), container.services) for name, plugin in loaded)
    container.parts.add_args(*built)
    container.check_dependencies()
    container.registry()
    return container


def known_work(container: HostContainer) -> list[WorkSubscription]:
    """Every work subscription that this composition consumes or addresses, each once."""
    contributions = container.contributions()
    work = [item for item in contributions.subscriptions if isinstance(item, WorkSubscription)]
    return list({item.name: item for item in [*contributions.addressed, *work]}.values())
