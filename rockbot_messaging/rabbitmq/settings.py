"""What a connection to RabbitMQ needs to know, checked when it is written down and silent about its secret."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final
from urllib.parse import urlencode

from rockbot_messaging.broker_urls import Address, BrokerUrl
from rockbot_messaging.headers import DEFAULT_MAX_HEADER_BYTES
from rockbot_messaging.topics import check_topic

__all__ = ["DEFAULT_MAX_BODY_BYTES", "RabbitSettings", "tls_context"]

DEFAULT_MAX_BODY_BYTES: Final = 16 * 1024 * 1024

_TLS_QUERY: Final = ("cafile", "certfile", "keyfile")


@final
@dataclass(frozen=True, kw_only=True)
class RabbitSettings:
    """Durations are seconds, sizes are bytes.

    Args:
        url: ``amqp://`` or ``amqps://``, with user, password, host, port and virtual host; never shown. Several members of
            a cluster stand with commas between them (``host1:5672,host2:5672``): each connection begins with one by
            chance and goes to the next when that fails.
            ``cafile``, ``certfile`` and ``keyfile`` may stand in its query instead of the fields below.
        namespace: prefix of every exchange and queue.
        connect_timeout: how long opening may take, and how long a publish waits for a lost connection; one that was
            written before it was lost waits for its confirm as long as any other.
        confirm_timeout: how long a publish waits for its confirm, reconnects and a blocked broker included.
        confirm_window: publishes that wait for their confirm at the same time; further ones wait for room.
        max_body_bytes: a larger body is refused before it is sent.
        max_header_bytes: larger headers are refused before they are sent, and are a dead letter when they arrive.
        max_failure_bytes: what all failure headers of a dead letter may take together.
        reconnect_interval: pause between two attempts to connect at first; it doubles, and each is up to a half longer by
            chance.
        reconnect_longest: what it doubles up to.
        heartbeat: seconds after which a silent connection counts as dead (AMQP negotiates whole seconds).
        quiet_check: seconds without a delivery after which an idle consumer asks whether messages wait for it; if so, the
            broker has forgotten it, and it consumes anew.
        letters_wait: how long a look at dead letters waits for another process that is at work on the same queue.
        subscriptions: work subscriptions whose dead letters this process looks after without consuming them.
        sign: put the user name on every message as its `user_id`, so that receivers can tell whom to trust; switch it
            off where the broker knows this user by another name (certificates, OAuth).
        cafile, certfile, keyfile: PEM files for ``amqps``.
    """

    url: str = field(repr=False)
    namespace: str = "rockbot"
    connect_timeout: float = 10.0
    confirm_timeout: float = 30.0
    confirm_window: int = 1000
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES
    max_failure_bytes: int = 32 * 1024
    reconnect_interval: float = 0.5
    reconnect_longest: float = 3.0
    heartbeat: int = 20
    quiet_check: float = 10.0
    letters_wait: float = 30.0
    subscriptions: tuple[str, ...] = ()
    sign: bool = True
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __post_init__(self) -> None:
        BrokerUrl.parse(self.url)
        check_topic(self.namespace)
        seconds = (
            self.connect_timeout,
            self.confirm_timeout,
            self.reconnect_interval,
            self.quiet_check,
            self.letters_wait,
        )
        if min(seconds) <= 0 or self.heartbeat < 1:
            raise ValueError("RabbitMQ timeouts, reconnect interval, checks and heartbeat must be above 0")
        if self.max_body_bytes < 1 or self.max_failure_bytes < 1024:
            raise ValueError("max_body_bytes must be at least 1 and max_failure_bytes at least 1024")
        if not 4096 <= self.max_header_bytes <= 100 * 1024 or self.confirm_window < 1:
            raise ValueError("max_header_bytes must be 4096 to 102400, and confirm_window at least 1")

    @property
    def parts(self) -> BrokerUrl:
        """The URL taken apart."""
        return BrokerUrl.parse(self.url)

    @property
    def address(self) -> str:
        """Host and port of every member, for messages to people."""
        return ", ".join(map(str, self.parts.addresses))

    @property
    def user(self) -> str:
        """The user name, decoded."""
        return self.parts.user

    @property
    def vhost(self) -> str:
        """The virtual host, decoded."""
        return self.parts.vhost

    def connection_url(self, address: Address) -> str:
        """The URL of one member as the client library reads it; carries the secret."""
        parts = self.parts
        query = {name: value for name, value in parts.query.items() if name not in _TLS_QUERY}
        query["heartbeat"] = str(self.heartbeat)
        login = f"{parts.login}@" if parts.login else ""
        return f"{parts.scheme}://{login}{address}{parts.path}?{urlencode(query)}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for ``amqps``: server verified, client certificate if there is one; None for ``amqp``.

        Raises:
            OSError: a file cannot be read or is no certificate.
        """
        parts = self.parts
        if not parts.secure:
            return None
        cafile, certfile, keyfile = (getattr(self, name) or parts.query.get(name) for name in _TLS_QUERY)
        return tls_context(cafile, certfile, keyfile)

    def describe(self, address: str) -> str:
        """What is used there, for messages to people."""
        return f"RabbitMQ at {address}, virtual host {self.vhost!r}, namespace {self.namespace!r}"

    def __str__(self) -> str:
        return self.describe(self.address)


def tls_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """A context that verifies the server, by the system's authorities without `cafile`, and presents `certfile`.

    Raises:
        OSError: a file cannot be read or is no certificate; the text names it.
    """
    for path in (cafile, certfile, keyfile):
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path!r}")
    context = ssl.create_default_context(cafile=cafile)
    if certfile:
        try:
            context.load_cert_chain(certfile, keyfile)
        except ssl.SSLError as exc:
            raise OSError(f"{certfile!r} and {keyfile or certfile!r} are no certificate with its key: {exc}") from None
    return context
