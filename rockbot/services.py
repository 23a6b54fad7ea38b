"""Services that run beside a host, or alone: workers on the bus that are no handlers because they must not import the host.

They are found by entry points of the group ``rockbot.services``. A service's section of the settings file has its name and
is validated by the service's own model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from rockbot.errors import ConfigError, MissingExtra
from rockbot_messaging.clock import Clock
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["ENTRY_POINTS", "Service", "ServiceFactory", "ServiceSurroundings", "load_service"]

#: Entry point group of services.
ENTRY_POINTS: Final = "rockbot.services"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSurroundings:
    """What a service is given: an opened bus, a ledger, who it is, what queues of ours begin with.

    `regulation` goes around its handlers; `configure` gives each of its subscriptions as the settings want it (it raises
    `ConfigError`). It counts in `measures`; its spans go to `tracing`.
    """

    bus: MessageBus
    ledger: ResultLedger
    clock: Clock
    owner: str
    source: str
    namespace: str
    regulation: Regulation
    configure: Callable[[WorkSubscription], WorkSubscription]
    measures: Measures = NO_MEASURES
    tracing: Tracing = NO_TRACING


class Service(Protocol):
    """A worker with a life of its own."""

    def measure(self) -> None:
        """Set the gauges that it does not set in passing; called before they are shown."""
        ...

    @property
    def subscriptions(self) -> Sequence[WorkSubscription]:
        """What it consumes."""
        ...

    async def prepare(self) -> None:
        """Do what takes long and needs no bus (build runtimes, start workers); `start` calls it when nobody did.

        An error of its own that has an attribute `extra` says that packages of that extra are not installed.
        """
        ...

    async def start(self) -> None:
        """Declare its queues and consume. The bus is open."""
        ...

    async def stop(self, *, timeout: float) -> int:
        """Stop consuming, finish what is in hand within `timeout` seconds, end its workers; how many were handed back.

        Drains the regulation first.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Facts about it for `doctor`: versions, pool, what of its isolation is missing."""
        ...


class ServiceFactory(Protocol):
    """Makes a service from its settings section; does not start anything.

    Raises:
        ValueError: the section is wrong (pydantic's ValidationError is one).
    """

    def __call__(self, section: Mapping[str, Any], surroundings: ServiceSurroundings) -> Service: ...


def load_service(name: str) -> ServiceFactory:
    """The factory of that name.

    Raises:
        ConfigError: no such service is installed. MissingExtra: its packages are not.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            try:
                factory: ServiceFactory = point.load()
            except ModuleNotFoundError as exc:
                raise MissingExtra(f"service {name!r} (module {exc.name} is not installed)", "wasm") from exc
            return factory
    raise ConfigError(f"no service {name!r} is installed")
