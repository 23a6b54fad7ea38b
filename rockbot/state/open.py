"""From the address of a store to the store."""

from __future__ import annotations

from pathlib import Path

from rockbot.errors import ConfigError, MissingExtra
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import Clock

__all__ = ["open_store", "sqlite_path"]

_SUPPORTED = "sqlite:///relative/path, sqlite:////absolute/path, postgresql://, redis://, rediss:// or memory://"


def open_store(url: str, clock: Clock) -> StateStore:
    """The store at an address, not opened yet. Paths are taken as they are, nothing in them is decoded.

    Raises:
        ConfigError: the address is not one this release supports. The text never repeats more of it than its scheme,
            because addresses of servers carry passwords.
        MissingExtra: the packages it needs are not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"a state address begins with a scheme; this release supports {_SUPPORTED}")
    if scheme == "memory":
        if rest:
            raise ConfigError("memory:// takes nothing behind it: that state lives in the process and ends with it")
        return MemoryStateStore(clock)
    if (path := sqlite_path(url)) is not None:
        return SqliteStateStore(path, clock)
    # Each of these is imported when it is asked for: it is slow to import, and its library need not be there.
    if scheme in ("postgresql", "postgres"):
        try:
            from rockbot.state.postgres import PostgresStateStore
        except ModuleNotFoundError as exc:
            raise MissingExtra(f"state in PostgreSQL (module {exc.name} is not installed)", "sql") from exc
        return PostgresStateStore(url)
    if scheme in ("redis", "rediss"):
        try:
            from rockbot.state.redis import RedisStateStore
        except ModuleNotFoundError as exc:
            raise MissingExtra(f"state in Redis (module {exc.name} is not installed)", "redis") from exc
        return RedisStateStore(url)
    raise ConfigError(f"state in {scheme!r} is not supported by this release; use {_SUPPORTED}")


def sqlite_path(url: str) -> Path | None:
    """The file of a ``sqlite://`` address, None for any other scheme.

    Raises:
        ConfigError: the address names no file.
    """
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite":
        return None
    path = rest[1:]
    if not rest.startswith("/") or path in ("", "/", ":memory:") or "\0" in path:
        raise ConfigError(f"sqlite:// needs the path of a file; write {_SUPPORTED}")
    return Path(path)
