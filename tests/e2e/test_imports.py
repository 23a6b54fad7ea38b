"""A process loads what its settings ask for, and none of the large libraries that others need: Python's import times say so."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.processes import ROCKBOT, environment

pytestmark = pytest.mark.rabbitmq

#: Modules that are large or slow to import, each for one adapter or service.
HEAVY = frozenset(
    {
        *("anthropic", "openai", "httpx2", "mcp", "redis", "asyncpg", "kubernetes", "wasmtime", "componentize_py"),
        *("fastapi", "starlette", "uvicorn", "opentelemetry.sdk", "opentelemetry.exporter", "requests", "rich.console"),
    }
)


def _imports(errors: str) -> Iterator[tuple[str, int]]:
    """Modules, and the microseconds that each took without what it imported."""
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", errors, re.MULTILINE):
        yield name, int(own)


async def _loaded(*command: str, until: str, env: dict[str, str], cwd: Path) -> dict[str, int]:
    """What `rockbot COMMAND` has imported when its log says `until`."""
    process = await asyncio.create_subprocess_exec(
        ROCKBOT, *command, stderr=asyncio.subprocess.PIPE, env={**env, "PYTHONPROFILEIMPORTTIME": "1"}, cwd=cwd
    )
    assert process.stderr is not None
    seen = ""
    try:
        async with asyncio.timeout(60):
            while until not in seen:
                line = await process.stderr.readline()
                assert line, seen[-4000:]
                seen += line.decode()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        await process.communicate()
    found = dict(_imports(seen))
    slowest = sorted(found.items(), key=lambda each: -each[1])[:5]
    print(f"{' '.join(command)}: {len(found)} modules in {sum(found.values()) / 1e6:.2f} s; most of it: {slowest}")
    return found


@pytest.mark.parametrize(
    ("command", "until", "state", "wanted"),
    [
        ("run", "host consumes", "sqlite", set()),
        # The client of Redis looks for the SDK by itself.
        ("run", "host consumes", "redis", {"redis", "opentelemetry.sdk"}),
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
        ROCKBOT_STATE_URL=request.getfixturevalue("redis_node").url
        if state == "redis"
        else f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__LOG_FORMAT="json",
    )
    found = await _loaded(command, until=until, env=env, cwd=tmp_path)
    assert "aio_pika" in found
    assert HEAVY & found.keys() == wanted
