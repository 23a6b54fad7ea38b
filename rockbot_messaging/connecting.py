"""From an address to a bus, for programs that are not a host. Providers are imported when their scheme is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypedDict

from rockbot_messaging.broker_urls import scheme_of
from rockbot_messaging.errors import MessagingError

if TYPE_CHECKING:
    from rockbot_messaging.artifacts import ArtifactStore
    from rockbot_messaging.layers import Layer
    from rockbot_messaging.ports import MessageBus
    from rockbot_messaging.signing import Signer

__all__ = ["BusOptions", "ProviderMissing", "bus_at", "connect"]

_THRESHOLD: Final = 64 * 1024


class BusOptions(TypedDict, total=False):
    """Further arguments of `bus_at`."""

    namespace: str
    connect_timeout: float
    signer: Signer | None
    artifacts: ArtifactStore | None
    threshold: int


class ProviderMissing(MessagingError, ImportError):
    """The package that speaks the protocol of an address is not installed."""


@asynccontextmanager
async def connect(
    url: str,
    *,
    namespace: str = "rockbot",
    connect_timeout: float = 10.0,
    signer: Signer | None = None,
    artifacts: ArtifactStore | None = None,
    threshold: int = _THRESHOLD,
) -> AsyncIterator[MessageBus]:
    """An opened bus for the length of a block, closed behind it. Arguments are those of `bus_at`.

    Raises:
        ValueError, ProviderMissing: see `bus_at`.
        BrokerUnreachable: the broker did not answer in time, or refuses these credentials.
        TopologyMismatch: an exchange exists with other arguments.
    """
    bus = bus_at(
        url,
        namespace=namespace,
        connect_timeout=connect_timeout,
        signer=signer,
        artifacts=artifacts,
        threshold=threshold,
    )
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


def bus_at(
    url: str,
    *,
    namespace: str = "rockbot",
    connect_timeout: float = 10.0,
    signer: Signer | None = None,
    artifacts: ArtifactStore | None = None,
    threshold: int = _THRESHOLD,
) -> MessageBus:
    """The bus at an address, not opened.

    Args:
        url: ``amqp://user:password@host:port/vhost``, ``amqps://...``, or ``memory://`` (a broker of its own that ends with
            the bus: for tests).
        namespace: first part of the names of exchanges and queues; the setting `namespace` of the hosts.
        connect_timeout: seconds that opening may take.
        signer: signs what is published, where hosts require signatures.
        artifacts: where bodies above `threshold` bytes lie that the hosts share with this program; None sends them whole.
        threshold: see `artifacts`.

    Raises:
        ValueError: the address is malformed; the text does not repeat it.
        ProviderMissing: its provider is not installed; the text says what to install.
    """
    bus = _provider(url, namespace, connect_timeout)
    layers: list[Layer] = []
    if artifacts is not None:
        from rockbot_messaging.claims import ClaimCheck

        layers.append(ClaimCheck(artifacts, threshold=threshold))
    if signer is not None:
        from rockbot_messaging.signing import Signing

        layers.append(Signing(signer))
    if not layers:
        return bus
    from rockbot_messaging.layers import LayeredBus

    return LayeredBus(bus, layers)


def _provider(url: str, namespace: str, connect_timeout: float) -> MessageBus:
    match scheme := scheme_of(url):
        case "memory":
            from rockbot_messaging.memory import MemoryBus

            return MemoryBus(namespace=namespace)
        case "amqp" | "amqps":
            try:
                from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
            except ModuleNotFoundError as exc:
                raise ProviderMissing(
                    f"a RabbitMQ broker needs the extra 'rabbitmq' ({exc.name} is not installed):"
                    " pip install 'rockbot[rabbitmq]'"
                ) from exc
            return RabbitBus(RabbitSettings(url=url, namespace=namespace, connect_timeout=connect_timeout))
        case _:
            raise ValueError(f"the scheme {scheme[:20]!r} is not known: use amqp://, amqps:// or memory://")
