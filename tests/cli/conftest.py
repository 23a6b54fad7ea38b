from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway.fake_agent import FakeHost, served_host

from rockbot.cli.main import run


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        """The last line of standard error as an error object."""
        found: dict[str, str] = json.loads(self.err.splitlines()[-1])["error"]
        return found


Cli = Callable[..., Awaitable[Ran]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test."""
    for name in list(os.environ):
        if name.startswith(("ROCKBOT_", "ANTHROPIC_", "XDG_")) or name in ("NO_COLOR", "VISUAL", "EDITOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def alone(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command without a host."""

    def execute(*arguments: str) -> Ran:
        capfd.readouterr()
        code = run(arguments)
        return Ran(code, *capfd.readouterr())

    return execute


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    async with served_host() as host:
        yield host


@pytest.fixture
def cli(host: FakeHost, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command against the host; in a thread, because it brings an event loop of its own."""

    async def execute(*arguments: str) -> Ran:
        capfd.readouterr()
        code = await asyncio.to_thread(run, ["--socket", str(host.socket), *arguments])
        return Ran(code, *capfd.readouterr())

    return execute
