"""The compose file for one machine: its settings are settings, its containers as careful as the chart's, its images built."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path
from typing import Any

import yaml
from chart.rendering import named, render

from rockbot.health import Health, HealthServer
from rockbot.settings import Settings, load
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.testing import FakeClock, SequenceIds

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
OURS = ("host", "scripts")


def test_our_containers_have_nothing_that_they_do_not_need() -> None:
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert float(service["stop_grace_period"].rstrip("s")) > Settings().host.drain_seconds


def test_our_images_are_those_that_make_image_builds() -> None:
    version = re.search(r"^VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version is not None
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["image"] == f"rockbot-{name}:{version[1]}"
        assert f" AS {service['build']['target']}\n" in (ROOT / "docker" / "Dockerfile").read_text()


def test_every_variable_of_ours_is_a_setting(monkeypatch: Any) -> None:
    for name in OURS:
        environment = COMPOSE["services"][name]["environment"]
        for variable, value in environment.items():
            if variable.startswith("ROCKBOT_"):
                monkeypatch.setenv(variable, value)
        settings = load()
        assert settings.broker_url.get_secret_value() == environment["ROCKBOT_BROKER_URL"]
        assert settings.host.health_port == int(environment["ROCKBOT_HOST__HEALTH_PORT"])


def test_the_servers_are_those_of_the_chart_and_keep_what_they_acknowledge() -> None:
    objects = render()
    for server in ("rabbitmq", "valkey"):
        (container,) = named(objects, "StatefulSet", f"demo-rockbot-{server}")["spec"]["template"]["spec"]["containers"]
        service = COMPOSE["services"][server]
        assert service["image"] == container["image"]
        assert service["volumes"]
        if server == "valkey":
            kept = [argument for argument in service["command"] if argument in container["args"]]
            assert {"--appendonly", "always", "noeviction"} <= set(kept)
    addresses = COMPOSE["services"]["host"]["environment"]
    assert COMPOSE["services"]["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"] in addresses["ROCKBOT_BROKER_URL"]


async def test_compose_waits_until_our_processes_are_ready() -> None:
    bus = MemoryBus(clock=FakeClock(), ids=SequenceIds(1))
    health = Health(bus)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = HealthServer(health, host="127.0.0.1", port=port)
    for name in OURS:
        service = COMPOSE["services"][name]
        _, program, *arguments = service["healthcheck"]["test"]
        assert program == "python3"
        given = service["environment"]["ROCKBOT_HOST__HEALTH_PORT"]
        command = [sys.executable, *(argument.replace(given, str(port)) for argument in arguments)]

        async def status(command: list[str] = command) -> int:
            asked = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            return await asked.wait()

        assert await status() == 1
        await server.start()
        assert await status() == 1
        health.started = True
        await bus.open()
        assert await status() == 0
        health.draining = True
        assert await status() == 1
        await server.close()
        health.started = health.draining = False
    await bus.close()
