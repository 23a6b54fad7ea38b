"""The connection to Redis: bounded, replaced when the server was restarted, with errors that say what to check.

A script is never sent twice: whether a call whose connection broke was run is unknown, and `StateUnavailable` makes its
caller read again. Only a script that the server has forgotten is sent anew, because then nothing ran.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from rockbot.errors import ConfigError
from rockbot.state.cancellation import KeptCancellation
from rockbot.state.ports import StateUnavailable
from rockbot.state.redis_scripts import SCRIPTS
from rockbot.state.redis_whole_scripts import WHOLE_SCRIPTS
from rockbot.state.rules import not_open
from rockbot.state.tls import take_tls_files
from rockbot.state.under_way import UnderWay

__all__ = ["FORM", "RedisAddress", "RedisServer"]

#: The form of what is stored; a release refuses what a newer one wrote.
FORM: Final = 2
_CONNECT_SECONDS: Final = 5.0
#: Seconds that a call waits for others to be over.
_PLACE_SECONDS: Final = 30.0
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PLACE: Final = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")
_TLS: Final = {"cafile": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}
_WRITTEN: Final = "a Redis address is written redis://user:password@host:6379/0, odd signs in it as %40"
_ADVICE: Final = {
    "AuthenticationError": "check user and password",
    "AuthenticationWrongNumberOfArgsError": "check user and password",
    "NoPermissionError": "allow the user its keys, scripts and INFO",
    "OutOfMemoryError": "its memory is full: raise maxmemory",
    "ReadOnlyError": "it is a replica: name the primary",
    "BusyLoadingError": "it is starting; wait for it",
    "TimeoutError": "it does not answer in time",
}
_FAILURES: Final = (RedisError, OSError, TimeoutError)


@final
@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a store is: `url` with its secrets, `shown` without; its keys begin with `tag`."""

    url: str
    shown: str
    tag: str
    pool: int
    timeout: float

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Take `prefix`, `pool`, `timeout` and the files for TLS out of the query of an address; the rest is the client's.

        Raises:
            ConfigError: one of them is wrong; the text does not repeat the address.
        """
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ConfigError(_WRITTEN) from None
        prefix, pool, timeout = query.pop("prefix", "rockbot"), query.pop("pool", "10"), query.pop("timeout", "10")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError("the prefix of a Redis address is made of letters, digits and _.:-, and at most 64 long")
        if not (pool.isdecimal() and 1 <= int(pool) <= 1000):
            raise ConfigError("the pool of a Redis address is a number of connections from 1 to 1000")
        if not (timeout.isdecimal() and 1 <= int(timeout) <= 3600):
            raise ConfigError("the timeout of a Redis address is a number of seconds from 1 to 3600")
        if take_tls_files(query, _TLS, what="Redis") and parts.scheme != "rediss":
            raise ConfigError("files for TLS belong to an address that begins with rediss://")
        place = parts.netloc.rpartition("@")[2]
        # An unescaped sign in a password moves the rest of it to where the host is looked for.
        if not _PLACE.fullmatch(place) or not re.fullmatch(r"(/\d*)?", parts.path) or parts.fragment:
            raise ConfigError(_WRITTEN)
        shown = place if ":" in place.rpartition("]")[2] else f"{place}:6379"
        kept = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
        return cls(kept, f"{parts.scheme}://{shown}", f"{{{prefix}}}", int(pool), float(timeout))


@final
class RedisServer:
    """Runs the scripts of the store; `clock` is the Lua that goes before each."""

    def __init__(self, address: RedisAddress, clock: str) -> None:
        self._address = address
        self._scripts = {name: f"{clock}\n{body}" for name, body in (SCRIPTS | WHOLE_SCRIPTS).items()}
        self._hashes = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._scripts.items()}  # noqa: S324 - what Redis names scripts by
        self._client: Redis | None = None
        self._calls = UnderWay()
        self._places = asyncio.Semaphore(address.pool)

    async def open(self) -> tuple[str, ...]:
        """Connect; what speaks against the server keeping what it was told. Nothing when it is open.

        Raises:
            StateUnavailable: it cannot be reached or used.
            ConfigError: the address is wrong.
        """
        if self._client is not None:
            return ()
        client = self._connect()
        try:
            await self._check(client)
            doubts = await _doubts(client)
        except BaseException as exc:
            await client.aclose(close_connection_pool=True)
            if isinstance(exc, _FAILURES):
                raise self._explain(exc) from exc
            raise
        self._client = client
        return doubts

    async def close(self) -> None:
        """Finish what is under way, then disconnect; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await self._calls.finished()
            await client.aclose(close_connection_pool=True)

    async def run(self, script: str, *arguments: str | bytes | int | float) -> Any:
        """Run a script.

        Raises:
            StateUnavailable: it did not run, or nobody knows whether it did.
        """
        client = self._client
        if client is None:
            raise not_open(self._address.shown)
        with self._calls, KeptCancellation():
            await self._take_place()
            try:
                try:
                    return await client.evalsha(self._hashes[script], 1, self._address.tag, *arguments)
                except NoScriptError:
                    return await client.eval(self._scripts[script], 1, self._address.tag, *arguments)
            except _FAILURES as exc:
                raise self._explain(exc) from exc
            finally:
                self._places.release()

    async def _take_place(self) -> None:
        """Wait for a connection in the order of asking: in the client's own pool, calls that come later overtake."""
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(_PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StateUnavailable(
                f"state store {self._address.shown}: no connection of {self._address.pool} was free for {_PLACE_SECONDS:g} s;"
                " a larger 'pool' in its address may help"
            ) from None

    def _connect(self) -> Redis:
        address = self._address
        try:
            pool = BlockingConnectionPool.from_url(
                address.url,
                max_connections=address.pool,
                timeout=_CONNECT_SECONDS,
                socket_timeout=address.timeout,
                socket_connect_timeout=_CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except (TypeError, ValueError):  # what the client says of it may repeat it
            raise ConfigError(f"the address of {address.shown} has a part that is not understood") from None
        return Redis(connection_pool=pool)

    async def _check(self, client: Redis) -> None:
        shown = self._address.shown
        facts = await client.info()
        if facts.get("cluster_enabled"):
            raise StateUnavailable(
                f"state store {shown} is a Redis cluster; use a single server, with replicas or without"
            )
        if facts.get("role") == "slave":
            raise StateUnavailable(f"state store {shown} is a replica; name the primary")
        await client.set(f"{self._address.tag}:form", FORM, nx=True)
        form = int(await client.get(f"{self._address.tag}:form") or FORM)
        if form > FORM:
            raise StateUnavailable(
                f"state store {shown} holds form {form}, and this release knows {FORM}: "
                "a newer release wrote it; run that one, or give this one another prefix"
            )
        if form < FORM:
            await _list_what_is_there(client, self._address.tag)
            await client.set(f"{self._address.tag}:form", FORM)

    async def facts(self) -> tuple[str, int, tuple[str, ...]]:
        """What the server is, how many bytes it holds, and what speaks against it keeping what it was told.

        Raises:
            StateUnavailable: it does not say.
        """
        client = self._client
        if client is None:
            raise not_open(self._address.shown)
        with self._calls, KeptCancellation():
            try:
                told = await client.info()
                doubts = await _doubts(client)
            except _FAILURES as exc:
                raise self._explain(exc) from exc
        name = "Valkey" if "valkey_version" in told else "Redis"
        version = told.get("valkey_version", told.get("redis_version", "of an unknown version"))
        return f"{name} {version}", int(told.get("used_memory", 0)), doubts

    def _explain(self, exc: BaseException) -> StateUnavailable:
        kind = type(exc).__name__
        known = _ADVICE.get(kind) or ("see the cause" if isinstance(exc, ResponseError) else None)
        said = " ".join(str(exc).split()) or kind
        if "certificate" in said or "SSL" in said:
            known = "check its certificate, and the files for TLS in its address"
        advice = known or "check that it runs and is reachable"
        return StateUnavailable(f"state store {self._address.shown}: {advice} ({said})")


async def _doubts(client: Redis) -> tuple[str, ...]:
    """Which settings let the server lose what it acknowledged."""
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    found: dict[str | None, str | None] = {}
    try:
        for name in wanted:  # several at once are understood from 7.0 on
            found |= await client.config_get(name)
    except ResponseError:
        return ("its settings cannot be read (CONFIG GET is not allowed)",)
    return tuple(
        f"{name} is {found.get(name, 'unknown')}, not {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    )


async def _list_what_is_there(client: Redis, tag: str) -> None:
    """From form 1 to 2: spaces, streams, amounts and reservations are listed, so that they are found without a search."""
    async for name in client.scan_iter(match=f"{tag}:[isaq]:*", count=1000):
        kind, _, rest = name[len(tag) + 1 :].partition(b":")
        match kind:
            case b"i":
                await client.sadd(f"{tag}:spaces", rest)
            case b"s":
                await client.zadd(f"{tag}:streams", {rest: 0})
            case b"a":
                await client.zadd(f"{tag}:amounts", {rest: 0})
            case b"q":
                until_ms = await client.hget(name, "x")
                if until_ms is not None:
                    await client.zadd(f"{tag}:calls", {rest: float(until_ms)})
