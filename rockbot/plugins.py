"""How a capability joins a host: a plug-in is a function from the host's services to what it contributes.

Plug-ins are found by entry points of the group ``rockbot.handlers`` and switched on by the setting `handlers`. A
contribution is plain data, so that `rockbot pipeline` can print it and the container can wire it. What a handler is
written with can be imported from here; `docs/handlers.md` shows one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final

from rockbot.agents.roster import Roster
from rockbot.chain import Order
from rockbot.consuming import LiveSubscriptions
from rockbot.context import Context
from rockbot.errors import ConfigError, MissingExtra, PermanentFailure, TemporaryFailure
from rockbot.events.event import Event
from rockbot.events.models import LlmResponse
from rockbot.events.tools import ToolSpec
from rockbot.handler import CallNext, EventHandler
from rockbot.policies import Policy
from rockbot.settings import Settings
from rockbot.state.ports import StateStore
from rockbot_messaging.artifacts import ArtifactStore, MemoryArtifacts
from rockbot_messaging.canceling import RunningCalls
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.tracing import NO_TRACING, Tracing
from rockbot_messaging.trust import Roles

__all__ = [
    "ENTRY_POINTS",
    "CallNext",
    "Context",
    "Contribution",
    "Event",
    "EventHandler",
    "Link",
    "Loop",
    "ModelProbe",
    "Order",
    "PermanentFailure",
    "Plugin",
    "Services",
    "Signal",
    "TemporaryFailure",
    "load_plugins",
]

#: The extra that brings a package which handlers may need at import.
_EXTRAS: Final = {
    "anthropic": "anthropic",
    "openai": "openai",
    "mcp": "mcp",
    "wasmtime": "wasm",
    "kubernetes": "kubernetes",
    "redis": "redis",
}

#: Entry point group of handler plug-ins.
ENTRY_POINTS: Final = "rockbot.handlers"


#: Publishes one message by the lossy door at once, while the handler still works; it may be lost.
Signal = Callable[[MessageEnvelope], Awaitable[None]]


async def _unheard(_: MessageEnvelope) -> None:
    """For compositions without a bus."""


@final
@dataclass(frozen=True, slots=True)
class Services:
    """What the host gives to plug-ins. `owner` names this process in claims and leases.

    `agents` are those in force: they change while the host runs. `tools` returns every tool that the plug-ins of this host
    contribute; it is complete once all of them were built. `running` is where calls that can be cancelled are registered:
    give it to `LedgeredCalls`. `signal` is for what watchers see of work under way; everything else is emitted.
    `artifacts` is where large content lies, apart for each tenant.
    """

    settings: Settings
    state: StateStore
    ledger: ResultLedger
    clock: Clock
    ids: IdSource
    owner: str
    tools: Callable[[], tuple[ToolSpec, ...]]
    agents: Roster
    measures: Measures = NO_MEASURES
    tracing: Tracing = NO_TRACING
    running: RunningCalls = field(default_factory=RunningCalls)
    signal: Signal = _unheard
    artifacts: ArtifactStore = field(default_factory=MemoryArtifacts)

    @property
    def roles(self) -> Roles:
        """What the broker's users stand for (setting `trust.users`); ask it about a message's envelope."""
        return Roles(self.settings.trust.users)

    def policy_of(self, agent: str) -> Policy | None:
        """The policy of an agent as it is in force now; None when this process knows no such agent."""
        known = self.agents.get(agent)
        return None if known is None else known.settings.policy


@final
@dataclass(frozen=True, slots=True)
class Link:
    """A handler and where it stands in the chain (see `rockbot.chain.Order`)."""

    order: int
    name: str
    handler: EventHandler[Any]


@final
@dataclass(frozen=True, slots=True)
class Loop:
    """Something done at the start and then every so many seconds while the host runs; its errors are logged."""

    name: str
    act: Callable[[], Coroutine[Any, Any, object]]
    every: float


#: Tries a model, ``<provider>/<model>``, with one tiny call. Raises `rockbot.llm.LlmError`.
ModelProbe = Callable[[str], Coroutine[Any, Any, LlmResponse]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What a plug-in adds to a host.

    `subscriptions` are consumed by this host, `addressed` are other processes' queues that its links send to (they are
    created when missing, so that a command waits for its worker instead of being unroutable). `live` says which of the
    plug-in's work subscriptions are wanted at present, where that may change. `warm_up` is awaited once the host is ready,
    beside its work: for what takes long and nobody has to wait for, like an import in a thread. `loops` run as long as the host
    does; `close` is awaited when it has drained.
    """

    links: tuple[Link, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    addressed: tuple[WorkSubscription, ...] = ()
    events: tuple[type[Event], ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    live: LiveSubscriptions | None = None
    loops: tuple[Loop, ...] = ()
    model_probe: ModelProbe | None = None
    warm_up: Callable[[], Coroutine[Any, Any, None]] | None = None
    close: Callable[[], Coroutine[Any, Any, None]] | None = field(default=None)


class Plugin(Protocol):
    """A plug-in: called once per host, must not block or connect anywhere."""

    def __call__(self, services: Services) -> Contribution: ...


def load_plugins(names: tuple[str, ...]) -> list[tuple[str, Plugin]]:
    """The plug-ins of these names, in this order.

    Raises:
        ConfigError: a name is unknown; the text lists the known ones.
        MissingExtra: a plug-in's package is not installed.
    """
    from importlib.metadata import EntryPoint, entry_points

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINTS):
        other = found.setdefault(point.name, point)
        if point.name in names and other.value != point.value:
            raise ConfigError(f"two installed packages offer a handler {point.name!r}: {other.value}, {point.value}")
    plugins: list[tuple[str, Plugin]] = []
    for name in names:
        if name not in found:
            known = ", ".join(sorted(found)) or "none are installed"
            raise ConfigError(f"setting 'handlers' names {name!r}, which is no installed handler (known: {known})")
        try:
            plugins.append((name, found[name].load()))
        except ModuleNotFoundError as exc:
            extra = _EXTRAS.get((exc.name or "").partition(".")[0])
            if extra is None:
                raise ConfigError(f"handler {name!r} cannot be loaded: {exc}") from exc
            raise MissingExtra(f"handler {name!r} (module {exc.name} is not installed)", extra) from exc
        except (ImportError, AttributeError) as exc:
            raise ConfigError(f"handler {name!r} cannot be loaded from {found[name].value}: {exc}") from exc
    return plugins
