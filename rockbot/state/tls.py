"""The files for TLS in the address of a store: the same three names for every server, as for the broker."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from rockbot.errors import ConfigError

__all__ = ["take_tls_files"]

_NAMES: Final = ("cafile", "certfile", "keyfile")


def take_tls_files(query: MutableMapping[str, str], names: Mapping[str, str], *, what: str) -> bool:
    """Take ``cafile``, ``certfile`` and ``keyfile`` out of a query and put them back as what a driver calls them.

    Returns whether there were any.

    Raises:
        ConfigError: a file does not exist, or a certificate has no key.
    """
    given = {name: query.pop(name) for name in _NAMES if name in query}
    if ("certfile" in given) != ("keyfile" in given):
        raise ConfigError(f"certfile and keyfile of a {what} address belong together")
    for name, path in given.items():
        if not Path(path).is_file():
            raise ConfigError(f"{name} of a {what} address is {path}, where no file is")
        query[names[name]] = path
    return bool(given)
