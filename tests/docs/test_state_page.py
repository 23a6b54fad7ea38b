"""The commands of the page about state work as printed, one after the other."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from gateway.fake_agent import served_host
from history.stored import Talk

from rockbot.cli.main import run
from rockbot.state.desk.checking import check_store
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.testing import FakeClock

PAGE = (Path(__file__).parents[2] / "docs" / "state.md").read_text()
LINES = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


async def _talk(store: StateStore) -> None:
    talk = Talk(store, "TALK")
    await talk.task("TASK")
    await talk.reply()
    await store.put(key("acme", "thing", "a"), b"x")


def test_the_commands_about_the_store_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROCKBOT_STATE_URL", "sqlite:///state.db")

    async def fill() -> None:
        store = SqliteStateStore(tmp_path / "state.db", SystemClock())
        await store.open()
        await _talk(store)
        await store.close()

    asyncio.run(fill())
    commands = [line for line in LINES if " state " in line]
    assert len(commands) >= 6
    for line in commands:
        code = run(shlex.split(line)[1:])
        assert code == 0, f"{line}\n{capfd.readouterr()}"
    assert "nothing of it was there" not in capfd.readouterr().out


@pytest.mark.parametrize("line", [line for line in LINES if " tasks " in line])
async def test_the_commands_about_tasks_work(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with served_host() as host:
        await _talk(host.store)
        arguments = ["--socket", str(host.socket), *shlex.split(line)[1:]]
        assert await asyncio.to_thread(run, arguments) == 0


async def test_every_check_is_on_the_page() -> None:
    clock = FakeClock()
    store = MemoryStateStore(clock)
    await store.open()
    for check in await check_store(store, clock):
        assert f"| {check.name} |" in PAGE
