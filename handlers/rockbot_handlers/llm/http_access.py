"""What an SDK would refuse of an address, a header or the process's environment: refused at start, without importing one."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rockbot.errors import ConfigError

__all__ = ["check_address", "check_environment", "check_header"]

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")


def check_address(setting: str, address: str) -> None:
    """That `address`, the value of `setting`, is one of a server.

    Raises:
        ConfigError: it is none. The text does not repeat it: there may be a password in it.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{setting} must begin with http:// or https://")
    if not _has_host(address):
        raise ConfigError(f"{setting} is no address: after http:// or https:// comes a host, and a port if it has one")


def check_header(setting: str, value: str) -> None:
    """That the value of `setting` can be sent as a header.

    Raises:
        ConfigError: it cannot. The text does not repeat it: it may be a key.
    """
    if not (value.isascii() and value.replace("\t", " ").isprintable()):
        raise ConfigError(f"{setting} has a character that no HTTP header can carry")


def check_environment() -> None:
    """That the variables which every HTTP client of a provider reads are as it takes them.

    Raises:
        ConfigError: a proxy, or the file of certificates, cannot be used; the text names the variable.
    """
    bypassed = "*" in [host.strip() for host in _either("no_proxy").split(",")]
    for name in () if bypassed else _PROXIES:
        if value := _either(name):
            _check_proxy(f"the environment variable {name.upper()}", value)
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and not Path(certificates).is_file():
        raise ConfigError(f"the environment variable SSL_CERT_FILE names {certificates!r}, which is no file")


def _check_proxy(variable: str, value: str) -> None:
    scheme, separator, _ = value.partition("://")
    if separator and scheme.lower() not in _PROXY_SCHEMES:
        raise ConfigError(f"{variable} begins with {scheme!r}, a proxy with one of {', '.join(_PROXY_SCHEMES)}")
    if separator and scheme.lower().startswith("socks") and find_spec("socksio") is None:
        raise ConfigError(f"{variable} names a SOCKS proxy: pip install socksio")
    if not _has_host(value if separator else f"http://{value}"):
        raise ConfigError(f"{variable} is no address of a proxy")


def _has_host(address: str) -> bool:
    """Whether there is a host in it, and a number where a port stands."""
    try:
        found = urlsplit(address)
        return bool(found.hostname) and found.port != 0
    except ValueError:
        return False


def _either(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""
