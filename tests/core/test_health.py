"""What an orchestrator is told, and what the little HTTP server does with bad manners."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nodes.launching import free_port

from rockbot.errors import ConfigError
from rockbot.health import Health, HealthServer
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.ports import BusHealth
from rockbot_messaging.regulation import OutageStatus
from rockbot_messaging.testing import FakeClock


class Facts:
    """A bus of which only its health is asked."""

    def __init__(self, *, connected: bool = True, **idle: float) -> None:
        self.connected = connected
        self.idle = idle

    def health(self) -> BusHealth:
        return BusHealth(connected=self.connected, detail="in a test", idle_seconds=self.idle)


def health(facts: Facts, *, started: bool = True, draining: bool = False) -> Health:
    made = Health(facts)  # type: ignore[arg-type]
    made.started, made.draining = started, draining
    return made


@pytest.mark.parametrize(
    ("facts", "alive", "ready"),
    [
        (Facts(), True, True),
        (Facts(connected=False), True, False),
        (Facts(connected=False, work=900.0), True, False),
        (Facts(work=1.0), True, False),
        (Facts(work=60.0), True, False),
        (Facts(work=60.1), False, False),
        (Facts(work=1.0, other=61.0), False, False),
    ],
)
def test_a_host_is_dead_only_when_connected_and_long_without_a_consumer(facts: Facts, alive: bool, ready: bool) -> None:
    assert health(facts).alive()[0] is alive
    assert health(facts).ready()[0] is ready


def test_a_host_that_starts_or_drains_lives_but_is_not_ready() -> None:
    for case in (health(Facts(), started=False), health(Facts(), draining=True)):
        assert case.alive()[0]
        assert not case.ready()[0]


def test_an_outage_is_told_and_makes_a_host_neither_dead_nor_unready() -> None:
    made = health(Facts())
    outage = OutageStatus(subscription="work", since_ms=5, error="E: x", probes=2, waiting=3, probe_in=1.5)
    made.watch(lambda: [outage])
    for good, details in (made.alive(), made.ready()):
        assert good
        assert details["outages"] == [
            {"subscription": "work", "since_ms": 5, "error": "E: x", "probes": 2, "waiting": 3, "probe_in": 1.5}
        ]


async def test_a_real_bus_is_ready_once_open() -> None:
    bus = MemoryBus(clock=FakeClock())
    made = Health(bus)
    made.started = True
    assert not made.ready()[0]
    await bus.open()
    assert made.ready() == (
        True,
        {
            "started": True,
            "draining": False,
            "connected": True,
            "broker": "in memory, open",
            "idle_seconds": {},
            "outages": [],
        },
    )
    await bus.close()


async def serve(made: Health) -> tuple[HealthServer, int]:
    port = free_port()
    server = HealthServer(made, host="127.0.0.1", port=port)
    await server.start()
    return server, port


async def ask(port: int, request: bytes) -> tuple[int, dict[str, Any] | None]:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    if not answer:
        return 0, None
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    return int(head.split()[1]), json.loads(body) if body else None


async def test_the_three_paths_answer_by_status() -> None:
    made = health(Facts(work=5.0))
    server, port = await serve(made)
    try:
        status, details = await ask(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, details) == (200, made.alive()[1])
        assert (await ask(port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n"))[0] == 503
        assert await ask(port, b"GET /startupz HTTP/1.0\r\n\r\n") == (200, {"started": True})
        made.started = False
        assert (await ask(port, b"GET /startupz HTTP/1.1\r\n\r\n"))[0] == 503
        assert await ask(port, b"HEAD /livez HTTP/1.1\r\n\r\n") == (200, None)
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez/../x HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\r\n\r\n", 405),
        (b"GET\r\n\r\n", 405),
        (b"GET \r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\xff\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 0),
        (b"", 0),
        (b"GET /livez HTTP/1.1\r\n", 0),
    ],
)
async def test_garbage_is_answered_or_dropped_and_the_server_lives(request_bytes: bytes, status: int) -> None:
    server, port = await serve(health(Facts()))
    try:
        try:
            assert (await ask(port, request_bytes))[0] == status
        except ConnectionError:
            assert status == 0
        assert (await ask(port, b"GET /livez HTTP/1.1\r\n\r\n"))[0] == 200
    finally:
        await server.close()


async def test_port_0_switches_it_off_and_closing_twice_is_fine() -> None:
    server = HealthServer(health(Facts()), host="127.0.0.1", port=0)
    await server.start()
    await server.close()
    await server.close()


async def test_a_taken_port_is_named() -> None:
    server, port = await serve(health(Facts()))
    try:
        with pytest.raises(ConfigError, match=rf"host.health_port.* 127.0.0.1:{port} \(Address already in use\)"):
            await HealthServer(health(Facts()), host="127.0.0.1", port=port).start()
    finally:
        await server.close()
