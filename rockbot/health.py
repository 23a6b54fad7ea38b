"""Health: what an orchestrator asks on a port of its own.

A broker that is away makes a host not ready, never dead: restarting it would not bring the broker back. It is dead only
when it is connected and yet a subscription has had no consumer for a minute; a blocked loop does not answer at all. An outage of
what handlers depend on is told and changes neither answer: the host does what it should, which is to probe.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, final

from rockbot.errors import ConfigError
from rockbot.telemetry.exposition import CONTENT_TYPE, Exposition
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import OutageStatus

if TYPE_CHECKING:
    from rockbot.agents.roster import ReloadStatus

__all__ = ["Health", "HealthServer"]

#: Seconds without a consumer on an open connection after which the process is better restarted.
IDLE_LIMIT: Final = 60.0


@final
class Health:
    """The facts, and the two answers drawn from them. `agents` says how a host's agents stand."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._outages: list[Callable[[], Sequence[OutageStatus]]] = []
        self.agents: Callable[[], ReloadStatus] | None = None
        self.started = False
        self.draining = False

    def watch(self, outages: Callable[[], Sequence[OutageStatus]]) -> None:
        """Tell these outages too."""
        self._outages.append(outages)

    def outages(self) -> list[OutageStatus]:
        """The subscriptions of this process that only probe at present."""
        return [outage for each in self._outages for outage in each()]

    def alive(self) -> tuple[bool, dict[str, object]]:
        """Whether the process should be left running, and the details."""
        health = self._bus.health()
        stuck = {name: seconds for name, seconds in health.idle_seconds.items() if seconds > IDLE_LIMIT}
        return not (health.connected and stuck), self._details()

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Whether it consumes everything it should, and the details."""
        health = self._bus.health()
        return self.started and not self.draining and health.connected and not health.idle_seconds, self._details()

    def _details(self) -> dict[str, object]:
        health = self._bus.health()
        return {
            "started": self.started,
            "draining": self.draining,
            "connected": health.connected,
            "broker": health.detail,
            "idle_seconds": health.idle_seconds,
            "outages": [asdict(outage) for outage in self.outages()],
            **({} if self.agents is None else {"agents": asdict(self.agents())}),
        }


@final
class HealthServer:
    """``/livez``, ``/readyz``, ``/startupz`` and ``/metrics`` over plain HTTP/1.1, without a web framework in the image.

    Port 0 switches it off; without `metrics` there is nothing to scrape.
    """

    def __init__(self, health: Health, *, host: str, port: int, metrics: Exposition | None = None) -> None:
        self._health = health
        self._metrics = metrics
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the port is taken, or the address is none of this machine; the text names the setting.
        """
        if not self._port:
            return
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=8192)
        except OSError as exc:
            why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
            raise ConfigError(
                f"setting 'host.health_port': nothing can listen on {self._host}:{self._port} ({why}); two processes of one"
                " machine need two ports"
            ) from exc

    async def close(self) -> None:
        """Stop listening; idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer(head.split(b" ", 2)))
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a probe that does not finish its request gets no answer
        finally:
            writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        path = request[1].split(b"?")[0] if len(request) == 3 else b""
        if request[0] == b"HEAD":
            head, separator, _ = self._get(path).partition(b"\r\n\r\n")
            return head + separator
        if request[0] != b"GET":
            return _response("405 Method Not Allowed", {"error": "only GET and HEAD"})
        return self._get(path)

    def _get(self, path: bytes) -> bytes:
        match path:
            case b"/livez":
                good, details = self._health.alive()
            case b"/readyz":
                good, details = self._health.ready()
            case b"/startupz":
                good, details = self._health.started, {"started": self._health.started}
            case b"/metrics" if self._metrics is not None:
                return _head("200 OK", CONTENT_TYPE, body := self._metrics.text().encode()) + body
            case _:
                return _response("404 Not Found", {"error": "use /livez, /readyz, /startupz or /metrics"})
        return _response("200 OK" if good else "503 Service Unavailable", details)


def _response(status: str, details: dict[str, object]) -> bytes:
    body = json.dumps(details).encode()
    return _head(status, "application/json", body) + body


def _head(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode()
