"""``state``: doctor, export, import, migrate, forget. They need no host."""

from __future__ import annotations

import asyncio
import io
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Ran
from history.stored import Talk

from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock

Alone = Callable[..., Ran]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a conversation that has ended, and one that has not."""

    async def fill() -> None:
        store = SqliteStateStore(tmp_path / "state.db", SystemClock())
        await store.open()
        ended, begun = Talk(store, "ended"), Talk(store, "begun")
        await ended.task("t1", "What is 6 times 7?")
        await ended.reply("It is 42.")
        await begun.task("t2")
        await store.close()

    asyncio.run(fill())
    return f"sqlite:///{tmp_path / 'state.db'}"


def test_a_healthy_store_is_healthy(alone: Alone, url: str) -> None:
    ran = alone("--state", url, "state", "doctor")
    assert ran.code == 0
    assert "SQLite" in ran.out
    assert "2 conversations" in ran.out
    assert {line["status"] for line in alone("--state", url, "state", "doctor", "--json").lines} == {"ok"}


def test_a_file_that_is_not_there_is_not_made_by_looking(alone: Alone, tmp_path: Path) -> None:
    for command in (("doctor",), ("export",), ("forget", "--tenant", "x", "--yes")):
        ran = alone("--state", f"sqlite:///{tmp_path / 'none.db'}", "state", *command)
        assert ran.code == 1
        assert "none.db" in ran.err
    assert not (tmp_path / "none.db").exists()


def test_memory_has_nothing_to_look_after(alone: Alone) -> None:
    ran = alone("--state", "memory://", "state", "doctor")
    assert ran.code == 3
    assert "ends with its process" in ran.err


def test_a_store_goes_through_a_file_into_another(alone: Alone, url: str, tmp_path: Path) -> None:
    ran = alone("--state", url, "state", "export", "-o", "state.jsonl")
    assert ran.code == 0
    assert "written: " in ran.err
    assert stat.S_IMODE((tmp_path / "state.jsonl").stat().st_mode) == 0o600
    assert alone("--state", url, "state", "export", "-o", "state.jsonl").code == 2
    assert alone("--state", url, "state", "import", "state.jsonl").code == 1
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert alone("--state", other, "state", "import", "state.jsonl").code == 0
    assert alone("--state", other, "state", "import", "state.jsonl", "--merge").code == 0
    one, two = (alone("--state", each, "state", "export").out.splitlines()[2:-1] for each in (url, other))
    assert one == two
    assert len(alone("--state", url, "state", "export", "-o", "-").out.splitlines()) == len(one) + 3
    assert not (tmp_path / "-").exists()


def test_a_damaged_file_is_refused_before_anything_is_written(alone: Alone, url: str, tmp_path: Path) -> None:
    alone("--state", url, "state", "export", "-o", "state.jsonl")
    (tmp_path / "cut.jsonl").write_bytes((tmp_path / "state.jsonl").read_bytes()[:-400])
    other = f"sqlite:///{tmp_path / 'other.db'}"
    ran = alone("--state", other, "state", "import", "cut.jsonl")
    assert ran.code == 1
    assert "0 conversations" in alone("--state", other, "state", "doctor").out


def test_a_store_is_migrated_once(alone: Alone, url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    ran = alone("--state", url, "state", "migrate", "--to", other)
    assert ran.code == 0
    assert "copied and compared: " in ran.err
    assert "2 conversations" in alone("--state", other, "state", "doctor").out
    again = alone("--state", url, "state", "migrate", "--to", other)
    assert again.code == 1
    assert "not empty" in again.err
    assert alone("--state", url, "state", "migrate", "--to", url).code == 2


def test_secrets_of_an_address_are_never_shown(alone: Alone, url: str) -> None:
    for to in ("postgresql://me:hunter2@127.0.0.1:1/x", "redis://:hunter2@127.0.0.1:1/0", "mysql://me:hunter2@x/y"):
        ran = alone("--state", url, "state", "migrate", "--to", to)
        assert ran.code != 0
        assert "hunter2" not in ran.out + ran.err


def test_a_conversation_is_forgotten_after_a_question(alone: Alone, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    ran = alone("--state", url, "state", "forget", "--conversation", "ended")
    assert ran.code == 1
    assert "nothing was removed" in ran.err
    assert alone("--state", url, "state", "forget", "--conversation", "begun", "--yes").code == 1
    ran = alone("--state", url, "state", "forget", "--conversation", "ended", "--yes")
    assert ran.code == 0
    assert "stream" in ran.out
    assert "It is 42." not in alone("--state", url, "state", "export").out
    ran = alone("--state", url, "state", "forget", "--conversation", "ended", "--yes")
    assert ran.out == "nothing of it was there\n"
    assert alone("--state", url, "state", "forget", "--tenant", "default", "--yes", "--force").code == 0
    assert "0 conversations" in alone("--state", url, "state", "doctor").out


def test_forgetting_names_what(alone: Alone, url: str) -> None:
    assert alone("--state", url, "state", "forget", "--yes").code == 2
