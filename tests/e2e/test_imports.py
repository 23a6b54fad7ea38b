"""A process loads what its settings ask for, and none of the large libraries that others need: Python's import times say so.

What is needed for calls, and not to be ready, is loaded when the process is ready. Modules are counted, and times printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from e2e.processes import ROCKBOT, environment, rockbot

pytestmark = pytest.mark.rabbitmq

#: Modules that are large or slow to import, each for one adapter or service.
HEAVY = frozenset(
    {
        *("anthropic", "openai", "httpx2", "mcp", "redis", "asyncpg", "kubernetes", "wasmtime", "componentize_py"),
        *("fastapi", "starlette", "uvicorn", "opentelemetry.sdk", "opentelemetry.exporter", "requests", "rich.console"),
    }
)
#: What hosts are made of, and services are not.
HOSTS = frozenset(
    {
        *("dependency_injector", "rockbot.container", "rockbot.host", "rockbot.dispatcher", "rockbot.agents.roster"),
        *("rockbot.machines.turn", "rockbot.letters.service", "rockbot.inbox", "rockbot.tools", "rockbot_handlers"),
    }
)


def _imports(errors: str) -> Iterator[tuple[str, int]]:
    """Modules, and the microseconds that each took without what it imported."""
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", errors, re.MULTILINE):
        yield name, int(own)


async def _loaded(*command: str, until: Sequence[str], env: dict[str, str], cwd: Path) -> list[dict[str, int]]:
    """What `rockbot COMMAND` has imported whenever its log says the next of `until`."""
    process = await asyncio.create_subprocess_exec(
        ROCKBOT, *command, stderr=asyncio.subprocess.PIPE, env={**env, "PYTHONPROFILEIMPORTTIME": "1"}, cwd=cwd
    )
    assert process.stderr is not None
    seen, found = "", []
    try:
        async with asyncio.timeout(60):
            for message in until:
                while message not in seen:
                    line = await process.stderr.readline()
                    assert line, seen[-4000:]
                    seen += line.decode()
                found.append(dict(_imports(seen)))
    finally:
        os.kill(process.pid, signal.SIGTERM)
        await process.communicate()
    for message, modules in zip(until, found, strict=True):
        slowest = sorted(modules.items(), key=lambda each: -each[1])[:5]
        told = f"{len(modules)} modules in {sum(modules.values()) / 1e6:.2f} s; most of it: {slowest}"
        print(f"{' '.join(command)}, {message}: {told}")
    return found


@pytest.mark.parametrize(
    ("command", "until", "state", "wanted"),
    [
        ("run", "host consumes", "sqlite", set()),
        # The client of Redis looks for the SDK by itself.
        ("run", "host consumes", "redis", {"redis", "opentelemetry.sdk"}),
        ("run", "host consumes", "postgres", {"asyncpg"}),
        ("scripts", "service consumes", "sqlite", set()),
    ],
)
async def test_a_process_imports_the_large_libraries_of_its_settings_alone(
    command: str,
    until: str,
    state: str,
    wanted: set[str],
    amqp_url: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    env = environment(
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_NAMESPACE=f"imports-{command}-{state}",
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}"
        if state == "sqlite"
        else request.getfixturevalue({"redis": "redis_node", "postgres": "postgres"}[state]).url,
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__LOG_FORMAT="json",
    )
    (found,) = await _loaded(command, until=[until], env=env, cwd=tmp_path)
    assert "aio_pika" in found
    assert HEAVY & found.keys() == wanted
    if command == "scripts":
        assert not HOSTS & found.keys()


async def test_help_and_dead_letters_import_neither_sdks_nor_servers(amqp_url: str, tmp_path: Path) -> None:
    env = environment(
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_NAMESPACE="imports-cli",
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_MODEL="anthropic/claude-test",
        ROCKBOT_ANTHROPIC__API_KEY="k",
        PYTHONPROFILEIMPORTTIME="1",
    )
    found: dict[str, dict[str, int]] = {}
    for command in ("--version", "--help", "dlq list"):
        code, _, errors = await rockbot(command.split(), env=env, cwd=tmp_path)
        assert code == 0, errors[-4000:]
        found[command] = dict(_imports(errors))
    assert not HEAVY & found["dlq list"].keys()
    assert not (HEAVY - {"rich.console"}) & found["--help"].keys()  # help is drawn with it
    for command in ("--version", "--help"):
        assert not {"aio_pika", "dependency_injector", "rockbot.settings", "rockbot.events"} & found[command].keys()
        assert len(found[command]) < 0.75 * len(found["dlq list"])


async def test_the_sdks_of_model_providers_are_imported_when_the_host_is_ready_and_not_before(
    amqp_url: str, tmp_path: Path
) -> None:
    def settings(name: str, **changes: str) -> dict[str, str]:
        return environment(
            ROCKBOT_BROKER_URL=amqp_url,
            ROCKBOT_NAMESPACE=f"imports-{name}",
            ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / name}.db",
            ROCKBOT_MODEL="scripted/demo",
            ROCKBOT_HOST__LOG_FORMAT="json",
            **changes,
        )

    until = ["host consumes", "host is warm"]
    plain, plain_warm = await _loaded("run", until=until, env=settings("plain"), cwd=tmp_path)
    assert plain_warm == plain
    agents = {"assistant": {"model": "anthropic/claude-test"}, "second": {"model": "openai/gpt-test"}}
    keys = {"ROCKBOT_ANTHROPIC__API_KEY": "k", "ROCKBOT_PROVIDERS__OPENAI__API_KEY": "k"}
    env = settings("sdks", ROCKBOT_AGENTS=json.dumps(agents), **keys)
    ready, warm = await _loaded("run", until=until, env=env, cwd=tmp_path)
    assert not HEAVY & ready.keys()
    assert {"anthropic", "openai"} <= warm.keys()
    # What is checked at start of a provider costs next to nothing beside its package.
    assert len(ready) < 1.05 * len(plain)
    assert len(ready) < 0.6 * len(warm)
