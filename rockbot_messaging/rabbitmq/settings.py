"""What a connection to RabbitMQ needs to know, checked when it is written down and silent about its secret."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final, final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from rockbot_messaging.topics import check_topic

__all__ = ["DEFAULT_MAX_BODY_BYTES", "RabbitSettings"]

DEFAULT_MAX_BODY_BYTES: Final = 16 * 1024 * 1024

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_TLS_QUERY: Final = ("cafile", "certfile", "keyfile")


@final
@dataclass(frozen=True, kw_only=True)
class RabbitSettings:
    """Durations are seconds, sizes are bytes.

    Args:
        url: ``amqp://`` or ``amqps://``, with user, password, host, port and virtual host; never shown.
            ``cafile``, ``certfile`` and ``keyfile`` may stand in its query instead of the fields below.
        namespace: prefix of every exchange and queue.
        connect_timeout: how long opening may take, and how long a publish waits for a lost connection.
        confirm_timeout: how long a publish waits for its confirm, reconnects and a blocked broker included.
        max_body_bytes: a larger body is refused before it is sent.
        max_failure_bytes: what all failure headers of a dead letter may take together.
        reconnect_interval: pause between two attempts to connect.
        heartbeat: seconds after which a silent connection counts as dead (AMQP negotiates whole seconds).
        subscriptions: work subscriptions whose dead letters this process looks after without consuming them.
        sign: put the user name on every message as its `user_id`, so that receivers can tell whom to trust; switch it
            off where the broker knows this user by another name (certificates, OAuth).
        cafile, certfile, keyfile: PEM files for ``amqps``.
    """

    url: str = field(repr=False)
    namespace: str = "rockbot"
    connect_timeout: float = 10.0
    confirm_timeout: float = 30.0
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_failure_bytes: int = 32 * 1024
    reconnect_interval: float = 0.5
    heartbeat: int = 20
    subscriptions: tuple[str, ...] = ()
    sign: bool = True
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            known = False
        if not known:
            raise ValueError("the broker URL must read amqp://user:password@host:port/vhost (or amqps://)")
        check_topic(self.namespace)
        if min(self.connect_timeout, self.confirm_timeout, self.reconnect_interval) <= 0 or self.heartbeat < 1:
            raise ValueError("RabbitMQ timeouts, reconnect interval and heartbeat must be above 0")
        if self.max_body_bytes < 1 or self.max_failure_bytes < 1024:
            raise ValueError("max_body_bytes must be at least 1 and max_failure_bytes at least 1024")

    @property
    def address(self) -> str:
        """Host and port, for messages to people."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return f"{f'[{host}]' if ':' in host else host}:{parts.port or _PORTS[parts.scheme]}"

    @property
    def user(self) -> str:
        """The user name, decoded."""
        return unquote(urlsplit(self.url).username or "guest")

    @property
    def vhost(self) -> str:
        """The virtual host, decoded."""
        return unquote(urlsplit(self.url).path[1:]) or "/"

    @property
    def connection_url(self) -> str:
        """The URL as the client library reads it; carries the secret."""
        parts = urlsplit(self.url)
        query = dict(parse_qsl(parts.query))
        query["heartbeat"] = str(self.heartbeat)
        for name in _TLS_QUERY:
            query.pop(name, None)
        return parts._replace(query=urlencode(query)).geturl()

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for ``amqps``: server verified, client certificate if there is one; None for ``amqp``.

        Raises:
            OSError: a file cannot be read or is no certificate.
        """
        parts = urlsplit(self.url)
        if parts.scheme != "amqps":
            return None
        query = dict(parse_qsl(parts.query))
        context = ssl.create_default_context(cafile=self.cafile or query.get("cafile"))
        certificate = self.certfile or query.get("certfile")
        if certificate:
            context.load_cert_chain(certificate, self.keyfile or query.get("keyfile"))
        return context

    def __str__(self) -> str:
        return f"RabbitMQ at {self.address}, virtual host {self.vhost!r}, namespace {self.namespace!r}"
