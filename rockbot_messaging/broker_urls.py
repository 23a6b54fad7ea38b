"""Reads a RabbitMQ URL, which may name several members of a cluster: ``amqp://user:password@one:5672,two,three:5673/vhost``.

The standard library reads one host only, and what it says about others may quote the password; here a mistake is named by
its place. It loads nothing else, so that an address can be checked before any provider is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, final
from urllib.parse import parse_qsl, unquote

__all__ = ["FORM", "Address", "BrokerUrl", "scheme_of"]

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
FORM: Final = "amqp://user:password@host:port/vhost (or amqps://; several hosts as host1:5672,host2:5672)"

_PARTS: Final = re.compile(
    r"(?P<scheme>amqps?)://(?P<place>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?", re.IGNORECASE
)
_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.]+)?)\]|(?P<name>[^\s:\[\]@%,]+))(?::(?P<port>[^:]*))?")


def scheme_of(url: str) -> str:
    """What stands before ``://``, or before the first colon; empty if there is none."""
    return re.split(r"://|:", url, maxsplit=1)[0].lower() if ":" in url else ""


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where one member listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A URL taken apart; `login` is as it was written, escapes and all."""

    scheme: str
    addresses: tuple[Address, ...]
    login: str = field(repr=False)
    path: str
    query: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> BrokerUrl:
        """Read `url`.

        Raises:
            ValueError: it is none; the text says where it is wrong and repeats nothing of it.
        """
        found = _PARTS.match(url)
        if found is None:
            raise ValueError(f"the broker URL must read {FORM}")
        scheme = found["scheme"].lower()
        login, _, hosts = found["place"].rpartition("@")
        texts = hosts.split(",")
        addresses: dict[Address, None] = {}
        for number, text in enumerate(texts, 1):
            which = "its host" if len(texts) == 1 else f"host {number} of {len(texts)}"
            if not text or text.startswith(":"):
                raise ValueError(f"the broker URL must read {FORM}: {which} is empty")
            parts = _HOST.fullmatch(text)
            if parts is None:
                raise ValueError(f"the broker URL must read {FORM}: {which} is none")
            port = parts["port"]
            if port and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535 and len(port) < 6):
                raise ValueError(f"the broker URL must read {FORM}: the port of {which} is no number from 1 to 65535")
            host = (parts["six"] or parts["name"]).lower()
            addresses[Address(host, int(port) if port else _PORTS[scheme])] = None
        query = dict(parse_qsl(found["query"] or ""))
        return cls(scheme, tuple(addresses), login, found["path"] or "", query)

    @property
    def secure(self) -> bool:
        """Whether it means TLS."""
        return self.scheme == "amqps"

    @property
    def user(self) -> str:
        """The user name, decoded."""
        return unquote(self.login.partition(":")[0]) or "guest"

    @property
    def password(self) -> str:
        """The password, decoded; a secret."""
        return unquote(self.login.partition(":")[2]) or "guest"

    @property
    def vhost(self) -> str:
        """The virtual host, decoded."""
        return unquote(self.path[1:]) or "/"
