"""Addresses of stores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rockbot.errors import ConfigError, MissingExtra
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.open import open_store
from rockbot.state.sqlite import SqliteStateStore

K = key("acme", "thing", "one")
STORES = {"asyncpg": "postgres", "redis": "redis"}


async def test_an_absolute_sqlite_address_names_the_file(tmp_path, clock):
    store = open_store(f"sqlite:///{tmp_path}/state of 100%.db", clock)
    assert isinstance(store, SqliteStateStore)
    assert list(tmp_path.iterdir()) == []
    await store.open()
    await store.put(K, b"x")
    await store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["state of 100%.db"]


async def test_a_relative_sqlite_address_starts_at_the_working_folder(tmp_path, clock, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///var/state.db", clock)
    await store.open()
    await store.close()
    assert (tmp_path / "var" / "state.db").is_file()


async def test_memory_is_an_address(clock):
    store = open_store("memory://", clock)
    assert isinstance(store, MemoryStateStore)
    await store.open()
    assert await store.put(K, b"x") == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://me:secret@db/rockbot", "'mysql' is not supported by this release"),
        ("redis+sentinel://:secret@db", "'redis\\+sentinel' is not supported by this release"),
        ("me:secret@db", "begins with a scheme"),
        ("", "begins with a scheme"),
        ("memory://secret", "takes nothing behind it"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///", "needs the path of a file"),
        ("sqlite:////", "needs the path of a file"),
        ("sqlite://secret/state.db", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
    ],
)
def test_an_address_that_is_not_supported_is_told_without_repeating_its_secrets(url, says, clock):
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url, clock)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("postgresql://me:secret@db/x", "asyncpg", "sql"), ("redis://:secret@db/0", "redis", "redis")],
)
def test_a_store_whose_library_is_not_installed_names_the_extra(url, library, extra, clock, monkeypatch):
    for module in [name for name in sys.modules if name.startswith((library, f"rockbot.state.{STORES[library]}"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"rockbot\[{extra}\]") as caught:
        open_store(url, clock)
    assert "secret" not in str(caught.value)


def test_a_host_on_a_file_imports_no_library_of_a_server():
    program = "import sys, rockbot.state.open; print({'redis', 'asyncpg'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"set()\n"
