"""From a broker URL to a bus. Providers are imported here, and only when their scheme is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rockbot.errors import ConfigError, MissingExtra
from rockbot.logs import quiet_libraries
from rockbot.settings import Settings
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["is_embedded", "make_bus"]


def is_embedded(settings: Settings) -> bool:
    """Whether the broker is the in-process one."""
    return _scheme(settings) == "memory"


def _scheme(settings: Settings) -> str:
    try:
        parts = urlsplit(settings.broker_url.get_secret_value())
        _ = parts.port
    except ValueError:
        # What the library says may quote the address, password and all.
        raise ConfigError("setting 'broker_url' is no address: write amqp://user:password@host:port/vhost") from None
    return parts.scheme


def make_bus(
    settings: Settings,
    *,
    clock: Clock,
    ids: IdSource,
    work: Sequence[WorkSubscription] = (),
    durable: Path | None = None,
    patience: float = 10.0,
) -> MessageBus:
    """The bus that the setting `broker_url` names, not opened.

    `work` are the subscriptions whose dead letters this process may be asked about; `durable` is the SQLite file in which
    an embedded bus keeps its messages; `patience` is how long (seconds) a broker that does not answer is waited for.

    Raises:
        ConfigError: the address is malformed or its scheme unknown. MissingExtra: the provider's package is not installed.
    """
    url = settings.broker_url.get_secret_value()
    match _scheme(settings):
        case "memory":
            from rockbot_messaging.memory import MemoryBus, SqliteBusStorage

            storage = SqliteBusStorage(durable) if durable is not None else None
            return MemoryBus(
                namespace=settings.namespace,
                clock=clock,
                ids=ids,
                storage=storage,
                max_body_bytes=settings.host.max_body_bytes,
            )
        case "amqp" | "amqps":
            try:
                from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
            except ModuleNotFoundError as exc:
                raise MissingExtra("a RabbitMQ broker", "rabbitmq") from exc

            quiet_libraries()
            try:
                wanted = RabbitSettings(
                    url=url,
                    namespace=settings.namespace,
                    max_body_bytes=settings.host.max_body_bytes,
                    subscriptions=tuple(item.name for item in work),
                    connect_timeout=patience,
                )
            except ValueError as exc:
                raise ConfigError(f"setting 'broker_url': {exc}") from None
            return RabbitBus(wanted, clock=clock, ids=ids)
        case scheme:
            raise ConfigError(
                f"setting 'broker_url' has the unknown scheme {scheme!r}: use memory://, amqp:// or amqps://"
            )
