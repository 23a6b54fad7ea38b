"""Real processes of ours, started as a user starts them, and stopped by the test that started them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROCKBOT = str(Path(sys.executable).with_name("rockbot"))


def environment(**changes: str) -> dict[str, str]:
    """The test's environment without anything that would configure the host by accident."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ROCKBOT_", "ANTHROPIC_"))}
    return {**kept, **changes}


@asynccontextmanager
async def running(
    *arguments: str, until: str, env: dict[str, str], cwd: Path, timeout: float = 120
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`rockbot ARGUMENTS`, yielded once its log has a record with the message `until`; ended with SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        ROCKBOT, *arguments, stderr=asyncio.subprocess.PIPE, env=env, cwd=cwd, start_new_session=True
    )
    assert process.stderr is not None
    seen: list[str] = []

    async def drain(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            seen.append(line.decode(errors="replace"))

    try:
        async with asyncio.timeout(timeout):
            while line := await process.stderr.readline():
                seen.append(line.decode(errors="replace"))
                if _message(line) == until:
                    break
            else:
                raise AssertionError(f"rockbot {' '.join(arguments)} ended early:\n{''.join(seen)}")
        rest = asyncio.create_task(drain(process.stderr))
        yield process
        rest.cancel()
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(60):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"rockbot {' '.join(arguments)} did not end on SIGTERM") from None


def _message(line: bytes) -> str:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("message", ""))


async def rockbot(
    arguments: Sequence[str], *, env: dict[str, str], cwd: Path, timeout: float = 120
) -> tuple[int, str, str]:
    """Run `rockbot ARGUMENTS` to its end; exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        ROCKBOT, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env, cwd=cwd
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
