"""The supervisor's end of one worker process: start it, talk to it, kill it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, final

from rockbot_scripts.errors import FrameError
from rockbot_scripts.wasm import frames

START_SECONDS: Final = 60.0
_STDERR_BYTES = 4096
_LARGE_READ = 1024 * 1024


class WorkerDied(Exception):
    """The worker ended. `started` tells whether it had begun the run it was asked for."""

    def __init__(self, detail: str, *, started: bool) -> None:
        super().__init__(detail)
        self.started = started


class WorkerRefused(Exception):
    """The worker would not start; `reason` is `digest`, `lock` or `engine`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@final
@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told when it starts. It gets no environment and no other arguments."""

    directory: str
    digests: Mapping[str, str]
    max_memory: int
    strict: bool

    def argument(self) -> str:
        """Return the one command line argument of the worker."""
        return json.dumps(
            {
                "directory": self.directory,
                "digests": dict(self.digests),
                "max_memory": self.max_memory,
                "strict": self.strict,
                "parent": os.getpid(),
            }
        )


@final
class WorkerLink:
    """One live worker, ready for a run. `runs` counts the runs it was given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        # Killing through the process object may reap it behind the event loop's back; a pidfd cannot.
        self._handle = os.pidfd_open(process.pid)
        self._stderr = bytearray()
        self._drain = asyncio.create_task(self._keep_stderr(), name=f"script-worker-{process.pid}-stderr")
        self.runs = 0
        self.lock: dict[str, Any] = {}

    @classmethod
    async def start(cls, config: WorkerConfig) -> WorkerLink:
        """Start a worker and wait until it is locked and ready; raises WorkerRefused or WorkerDied."""
        # Creating a process is not to be cut short: asyncio would lose the process it just made.
        creating = asyncio.create_task(_create(config.argument()))
        try:
            process = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await cls(await creating).end()
            raise
        link = cls(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                hello = await link._receive(started=False)
        except TimeoutError:
            await link.end()
            raise WorkerDied(f"a worker was not ready within {START_SECONDS:g} s", started=False) from None
        except BaseException:
            await link.end()
            raise
        if hello.get("op") == "refused":
            await link.end()
            raise WorkerRefused(str(hello.get("reason")), str(hello.get("detail")))
        link.lock = dict(hello.get("lock") or {})
        return link

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the worker is known to have ended."""
        return self._process.returncode is None

    async def give(self, order: dict[str, Any]) -> None:
        """Give the worker one run; raises WorkerDied when it has ended."""
        self.runs += 1
        await self._send(order)

    async def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Its answer to that run; raises WorkerDied when it ends or talks nonsense."""
        started = False
        while True:
            answer = await self._receive(started=started)
            if answer.get("id") == order["id"] and answer.get("op") == "started":
                started = True
            elif answer.get("id") == order["id"] and answer.get("op") == "done":
                return answer
            else:
                self.kill()
                raise WorkerDied("a worker answered what it was not asked", started=started)

    async def probe(self) -> dict[str, str]:
        """Let the locked worker try forbidden system calls; returns the errno name (or `ok`) for each."""
        await self._send({"op": "probe"})
        return dict((await self._receive(started=False)).get("calls") or {})

    async def _send(self, message: dict[str, Any]) -> None:
        writer = self._process.stdin
        assert writer is not None
        try:
            writer.write(frames.encode(message))
            await writer.drain()
        except (ConnectionError, RuntimeError) as failure:
            raise WorkerDied(f"a worker is gone: {failure}", started=False) from None

    async def _receive(self, *, started: bool) -> dict[str, Any]:
        reader = self._process.stdout
        assert reader is not None
        try:
            header = await reader.readexactly(frames.HEADER.size)
            return frames.decode(await reader.readexactly(frames.size(header)))
        except FrameError as failure:
            self.kill()
            raise WorkerDied(str(failure), started=started) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            said = self._stderr.decode("utf-8", "replace").strip()[-500:]
            raise WorkerDied(f"a worker ended: {said}" if said else "a worker ended", started=started) from None

    async def _keep_stderr(self) -> None:
        reader = self._process.stderr
        assert reader is not None
        while piece := await reader.read(_STDERR_BYTES):
            self._stderr += piece
            del self._stderr[:-_STDERR_BYTES]

    def kill(self) -> None:
        """End the worker at once, whatever it is doing."""
        if self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until the worker has ended and its pipes are closed; returns its exit code."""
        code = await self._process.wait()
        await asyncio.wait([self._drain])
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        writer = self._process.stdin
        if writer is not None:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return code

    async def end(self) -> None:
        """Kill the worker and wait until it is gone."""
        self.kill()
        await asyncio.shield(self.ended())


async def _create(argument: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-m", "rockbot_scripts.wasm.worker", argument),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
        cwd="/",
        start_new_session=True,
        limit=_LARGE_READ,
    )
