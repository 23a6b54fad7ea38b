"""The pool of warm workers: the runner that the script service uses.

Each run has a worker to itself. A worker that was killed, crashed, trapped or has served its share is replaced by a
task that keeps its place filled; starting one takes a fraction of a second, so the next run finds a warm worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final, final

from rockbot_scripts import policy, wording
from rockbot_scripts.contract import Language, ScriptInvoke, ScriptLimits, ScriptResult
from rockbot_scripts.errors import LockIncomplete, SandboxUnavailable
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.install import Installation, install
from rockbot_scripts.wasm.link import WorkerConfig, WorkerDied, WorkerLink, WorkerRefused

log = logging.getLogger(__name__)

KILL_GRACE_SECONDS: Final = 0.5
_LAST_LOOK_SECONDS: Final = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_TRIES_BEFORE_BROKEN = 3


@final
class WasmPool:
    """A `ScriptRunner` over locked worker processes; safe to use from many tasks of one event loop."""

    def __init__(self, settings: ScriptSettings) -> None:
        self._settings = settings
        self._size = settings.workers or os.cpu_count() or 1
        self._idle: asyncio.LifoQueue[WorkerLink] = asyncio.LifoQueue()
        self._links: set[WorkerLink] = set()
        self._places: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._rebuilding = asyncio.Lock()
        self._installed: Installation | None = None
        self._lock: dict[str, Any] = {}
        self._serial = 0
        self._replaced = 0
        self._failures = 0
        self._trouble = asyncio.Event()
        self._reason = ""

    async def start(self) -> None:
        """Build what is missing (once, some seconds), start the workers, return when the first one is ready.

        Raises MissingExtra, UnsafeCache, SandboxBuildFailed, LockIncomplete (strict only) or SandboxUnavailable.
        """
        if self._places:
            return
        if platform.system() != "Linux":
            raise SandboxUnavailable(f"the sandbox needs Linux; this is {platform.system()}: run it in a container")
        self._installed = await install(self._settings.cache_dir)
        first = await self._first_worker()
        self._lock = first.lock
        for part in first.lock.get("missing", ()):
            log.warning("script workers run without a part of their lock that this kernel lacks: %s", part)
        self._places = [
            asyncio.create_task(self._keep_filled(first if place == 0 else None), name=f"script-worker-{place}")
            for place in range(self._size)
        ]
        self._idle.put_nowait(first)

    async def _first_worker(self) -> WorkerLink:
        try:
            return await self._spawn()
        except WorkerRefused as refusal:
            if refusal.reason == "lock":
                raise LockIncomplete(
                    f"scripts.strict is set and this kernel lacks: {refusal}; use a newer kernel or unset strict"
                ) from None
            raise SandboxUnavailable(f"no script worker starts: {refusal}") from None
        except WorkerDied as death:
            raise SandboxUnavailable(f"no script worker starts: {death}") from None

    async def _spawn(self) -> WorkerLink:
        """Start one worker; when its files are damaged, build them again and try once more."""
        try:
            return await self._launch()
        except WorkerRefused as refusal:
            if refusal.reason != "digest":
                raise
            log.warning("compiled guests were not loaded: %s", refusal)
            stale = self._installed
            async with self._rebuilding:
                if self._installed is stale:
                    self._installed = await install(self._settings.cache_dir)
            return await self._launch()

    async def _launch(self) -> WorkerLink:
        assert self._installed is not None
        link = await WorkerLink.start(
            WorkerConfig(
                directory=self._installed.directory,
                digests=self._installed.digests,
                max_memory=self._settings.max_memory_bytes,
                strict=self._settings.strict,
            )
        )
        self._links.add(link)
        return link

    async def _keep_filled(self, link: WorkerLink | None) -> None:
        """Keep one place of the pool filled until the pool closes; pauses grow while workers will not start."""
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            if link is None:
                try:
                    link = await self._spawn()
                except (WorkerRefused, WorkerDied, SandboxUnavailable) as failure:
                    log.error("a script worker does not start (next try in %.1f s): %s", pause, failure)
                    self._note_failure(str(failure))
                    await self._rest(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
                self._idle.put_nowait(link)
            pause = _FIRST_PAUSE
            self._failures = 0
            self._trouble.clear()
            await link.ended()
            self._links.discard(link)
            self._replaced += 1
            link = None

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        self._reason = reason
        if self._failures >= _TRIES_BEFORE_BROKEN and not self._links:
            self._trouble.set()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def run(
        self,
        invoke: ScriptInvoke,
        *,
        cancel: asyncio.Event | None = None,
        time_left: float | None = None,
    ) -> ScriptResult:
        """Run one script; see `ScriptRunner.run`."""
        if not self._places or self._closing.is_set():
            raise SandboxUnavailable("the script pool is not running: call start() first")
        denied = policy.refusal(invoke)
        if denied is not None:
            return denied
        limits = policy.clamp(invoke.limits, self._settings)
        began = time.monotonic()
        end = None if time_left is None else began + time_left
        engine = self._engine(invoke.language)
        for last_try in (False, True):
            link = await self._checkout(cancel, end)
            if link is None:
                stopped = cancel is not None and cancel.is_set()
                seconds = time.monotonic() - began
                return wording.verdict("cancelled" if stopped else "timeout", limits, engine=engine, seconds=seconds)
            try:
                return await self._drive(link, invoke, limits, cancel, end)
            except WorkerDied as death:
                if death.started or last_try:
                    log.warning("a script worker ended during a run: %s", death)
                    seconds = time.monotonic() - began
                    reason = "its sandbox process ended" if death.started else "no sandbox process would take it"
                    return wording.verdict("crashed", limits, engine=engine, seconds=seconds, reason=reason)
        raise AssertionError("unreachable")

    async def _checkout(self, cancel: asyncio.Event | None, end: float | None) -> WorkerLink | None:
        """Return an idle worker; None when `cancel` was set or `end` passed before there was one."""
        while True:
            if (cancel is not None and cancel.is_set()) or (end is not None and time.monotonic() >= end):
                return None
            if self._trouble.is_set():
                raise SandboxUnavailable(f"no script worker starts: {self._reason}")
            link: WorkerLink | None
            try:
                link = self._idle.get_nowait()
            except asyncio.QueueEmpty:
                link = await self._wait_for_worker(cancel, end)
            if link is not None and link.alive:
                return link

    async def _wait_for_worker(self, cancel: asyncio.Event | None, end: float | None) -> WorkerLink | None:
        getting = asyncio.create_task(self._idle.get())
        others = [asyncio.create_task(event.wait()) for event in (cancel, self._trouble, self._closing) if event]
        timeout = None if end is None else max(0.0, end - time.monotonic())
        try:
            await asyncio.wait([getting, *others], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            if self._closing.is_set():
                raise SandboxUnavailable("the script pool was closed")
            return None
        except asyncio.CancelledError:
            if getting.done() and not getting.cancelled():
                self._idle.put_nowait(getting.result())
            raise
        finally:
            for task in (getting, *others):
                task.cancel()

    async def _drive(
        self,
        link: WorkerLink,
        invoke: ScriptInvoke,
        limits: ScriptLimits,
        cancel: asyncio.Event | None,
        end: float | None,
    ) -> ScriptResult:
        """Have one worker run one script. Unless it answers in time and order, the worker is killed."""
        self._serial += 1
        began = time.monotonic()
        wall = limits.wall_seconds if end is None else max(0.01, min(limits.wall_seconds, end - began))
        order = {
            "op": "run", "id": self._serial, "language": invoke.language, "code": invoke.code, "input": invoke.input,
            "wall": wall, "memory": limits.memory_bytes, "output": limits.output_bytes,
        }  # fmt: skip
        limits = limits.model_copy(update={"wall_seconds": round(wall, 3)})
        engine = self._engine(invoke.language)
        watcher = None if cancel is None else asyncio.create_task(_kill_when(cancel, link))
        fit = False
        try:
            async with asyncio.timeout(wall + KILL_GRACE_SECONDS):
                await link.give(order)
            answer = await _patiently(link.answer(order), wall + KILL_GRACE_SECONDS)
            outcome = wording.result(answer, limits, engine=engine)
            fit = answer.get("leaving") is False and link.runs < self._settings.recycle_after
            return outcome
        except TimeoutError:
            return wording.verdict("timeout", limits, engine=engine, seconds=time.monotonic() - began)
        except ValueError as failure:
            raise WorkerDied(str(failure), started=True) from None
        except WorkerDied:
            if cancel is None or not cancel.is_set():
                raise
            return wording.verdict("cancelled", limits, engine=engine, seconds=time.monotonic() - began)
        finally:
            if watcher is not None:
                watcher.cancel()
            if fit and not (cancel is not None and cancel.is_set()):
                self._idle.put_nowait(link)
            else:
                link.kill()

    def _engine(self, language: Language) -> str:
        return "" if self._installed is None else self._installed.engines[language]

    def describe(self) -> Mapping[str, object]:
        """Return engines, workers and the parts of the lock in force."""
        return {
            "runner": "wasm",
            "engines": dict(self._installed.engines) if self._installed else {},
            "directory": self._installed.directory if self._installed else None,
            "workers": {"size": self._size, "ready": len(self._links), "replaced": self._replaced},
            "pids": sorted(link.pid for link in self._links),
            "lock": {
                "seccomp": bool(self._lock.get("seccomp")),
                "landlock_abi": self._lock.get("landlock_abi", 0),
                "missing": list(self._lock.get("missing", ())),
                "strict": self._settings.strict,
            },
        }

    async def probe(self) -> dict[str, str]:
        """Let one idle worker try forbidden system calls (the lock's self-test); the worker is replaced after it."""
        link = await self._checkout(None, None)
        assert link is not None
        try:
            return await link.probe()
        finally:
            link.kill()

    async def close(self) -> None:
        """Kill every worker and wait until all are gone."""
        self._closing.set()
        places, self._places = self._places, []
        for place in places:
            place.cancel()
        if places:
            await asyncio.wait(places)
        for link in list(self._links):
            await link.end()
            self._links.discard(link)


async def _patiently(answer: Coroutine[Any, Any, dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The answer; if this process itself was held up meanwhile, it may lie in the pipe and gets its time.

    Raises:
        TimeoutError: there is none.
    """
    loop = asyncio.get_running_loop()
    asking = asyncio.create_task(answer)
    try:
        while True:
            due = loop.time() + seconds
            await asyncio.wait((asking,), timeout=seconds)
            if asking.done():
                return asking.result()
            if seconds == _LAST_LOOK_SECONDS and loop.time() - due < _LAST_LOOK_SECONDS:
                raise TimeoutError
            seconds = _LAST_LOOK_SECONDS
    finally:
        asking.cancel()


async def _kill_when(cancel: asyncio.Event, link: WorkerLink) -> None:
    await cancel.wait()
    link.kill()
