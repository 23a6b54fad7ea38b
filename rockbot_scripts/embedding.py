"""How a host, or a process of its own, gets the script service: a factory found by entry point.

The service imports nothing of the host; what it is given is described here by its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rockbot_messaging.clock import Clock
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import Measures
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import Tracing
from rockbot_scripts.service import ScriptService
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.pool import WasmPool

__all__ = ["Surroundings", "service"]


class Surroundings(Protocol):
    """What a service is given by whoever runs it."""

    @property
    def bus(self) -> MessageBus: ...

    @property
    def ledger(self) -> ResultLedger: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def owner(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    @property
    def regulation(self) -> Regulation: ...

    @property
    def configure(self) -> Callable[[WorkSubscription], WorkSubscription]: ...

    @property
    def measures(self) -> Measures: ...

    @property
    def tracing(self) -> Tracing: ...


def service(section: Mapping[str, Any], surroundings: Surroundings) -> ScriptService:
    """Make the service from its section of the settings; nothing is started.

    Raises:
        ValueError: the section is wrong; the text names the key.
    """
    settings = ScriptSettings.model_validate(dict(section))
    return ScriptService(
        WasmPool(settings),
        bus=surroundings.bus,
        ledger=surroundings.ledger,
        clock=surroundings.clock,
        settings=settings,
        owner=surroundings.owner,
        source=surroundings.source,
        namespace=surroundings.namespace,
        regulation=surroundings.regulation,
        configure=surroundings.configure,
        measures=surroundings.measures,
        tracing=surroundings.tracing,
    )
