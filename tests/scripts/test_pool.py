"""The pool: cancelling, dying workers, replacement, waiting."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from rockbot_scripts.contract import ScriptInvoke, ScriptLimits
from rockbot_scripts.errors import SandboxUnavailable
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.pool import WasmPool

pytestmark = pytest.mark.sandbox

LOOP = ScriptInvoke(language="python", code="while True: pass", limits=ScriptLimits(wall_seconds=3600))
ANSWER = ScriptInvoke(language="python", code="6 * 7")


@pytest.fixture
async def pool() -> AsyncIterator[WasmPool]:
    pool = WasmPool(ScriptSettings(workers=1, recycle_after=3, max_wall_seconds=3600))
    await pool.start()
    yield pool
    await pool.close()


def _pids(pool: WasmPool) -> list[int]:
    pids = pool.describe()["pids"]
    assert isinstance(pids, list)
    return pids


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[11])


async def _busy(pid: int) -> None:
    """Wait until a worker is seen to burn processor time: its guest is running."""
    start = _cpu_ticks(pid)
    async with asyncio.timeout(60):
        while _cpu_ticks(pid) < start + 5:
            await asyncio.sleep(0)


async def test_a_cancelled_run_is_stopped_at_once_and_the_place_is_filled_again(pool: WasmPool) -> None:
    (pid,) = _pids(pool)
    cancel = asyncio.Event()
    run = asyncio.create_task(pool.run(LOOP, cancel=cancel))
    await _busy(pid)
    cancel.set()
    async with asyncio.timeout(60):
        result = await run
    assert (result.status, result.message) == ("cancelled", "The script was stopped because its run was cancelled.")
    assert (await pool.run(ANSWER)).value == "42"
    assert pid not in _pids(pool)


async def test_cancelling_the_caller_kills_the_guest(pool: WasmPool) -> None:
    (pid,) = _pids(pool)
    run = asyncio.create_task(pool.run(LOOP))
    await _busy(pid)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await pool.run(ANSWER)).value == "42"
    assert pid not in _pids(pool)


async def test_a_run_whose_worker_is_killed_is_reported_as_crashed(pool: WasmPool) -> None:
    (pid,) = _pids(pool)
    run = asyncio.create_task(pool.run(LOOP))
    await _busy(pid)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        result = await run
    assert result.status == "crashed"
    assert "sandbox process ended" in result.message
    assert (await pool.run(ANSWER)).value == "42"


async def test_a_worker_that_died_idle_costs_the_next_run_nothing(pool: WasmPool) -> None:
    (pid,) = _pids(pool)
    os.kill(pid, signal.SIGKILL)
    assert (await pool.run(ANSWER)).value == "42"
    assert pid not in _pids(pool)


async def test_a_worker_is_replaced_after_its_share_of_runs(pool: WasmPool) -> None:
    (first,) = _pids(pool)
    for _ in range(3):
        assert (await pool.run(ANSWER)).value == "42"
    assert (await pool.run(ANSWER)).value == "42"
    assert first not in _pids(pool)


async def test_a_worker_whose_guest_trapped_is_replaced(pool: WasmPool) -> None:
    (first,) = _pids(pool)
    assert (await pool.run(ScriptInvoke(language="python", code="import os; os.abort()"))).status == "crashed"
    assert (await pool.run(ANSWER)).value == "42"
    assert first not in _pids(pool)


async def test_waiting_for_a_worker_is_bounded_by_the_time_left_and_by_cancelling(pool: WasmPool) -> None:
    (pid,) = _pids(pool)
    stop = asyncio.Event()
    busy = asyncio.create_task(pool.run(LOOP, cancel=stop))
    await _busy(pid)
    waited = await pool.run(ANSWER, time_left=0.1)
    assert waited.status == "timeout"
    cancel = asyncio.Event()
    waiting = asyncio.create_task(pool.run(ANSWER, cancel=cancel))
    cancel.set()
    assert (await waiting).status == "cancelled"
    later = asyncio.create_task(pool.run(ANSWER))
    stop.set()
    assert (await busy).status == "cancelled"
    assert (await later).value == "42"


async def test_the_time_left_bounds_the_run_itself(pool: WasmPool) -> None:
    async with asyncio.timeout(60):
        result = await pool.run(LOOP, time_left=0.3)
    assert result.status == "timeout"


async def test_too_much_code_is_denied_without_a_worker(pool: WasmPool) -> None:
    result = await pool.run(ScriptInvoke(language="python", code="#" * (256 * 1024 + 1)))
    assert result.status == "denied"


async def test_many_runs_at_once_share_the_workers(pool: WasmPool) -> None:
    invokes = [ScriptInvoke(language="python", code=f"{n} + 1") for n in range(8)]
    results = await asyncio.gather(*(pool.run(invoke) for invoke in invokes))
    assert [result.value for result in results] == [str(n + 1) for n in range(8)]


async def test_a_closed_pool_says_so_and_leaves_no_process() -> None:
    pool = WasmPool(ScriptSettings(workers=2))
    await pool.start()
    pids = _pids(pool)
    await pool.close()
    await pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(SandboxUnavailable, match="not running"):
        await pool.run(ANSWER)


@pytest.mark.crash
async def test_the_workers_of_a_killed_supervisor_end_with_it() -> None:
    code = (
        "import asyncio\n"
        "from rockbot_scripts.contract import ScriptInvoke\n"
        "from rockbot_scripts.settings import ScriptSettings\n"
        "from rockbot_scripts.wasm.pool import WasmPool\n"
        "async def main():\n"
        "    pool = WasmPool(ScriptSettings(workers=1, default_wall_seconds=3600, max_wall_seconds=3600))\n"
        "    await pool.start()\n"
        "    print(pool.describe()['pids'][0], flush=True)\n"
        "    await pool.run(ScriptInvoke(language='python', code='while True: pass'))\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert supervisor.stdout is not None
    async with asyncio.timeout(60):
        worker = int(await supervisor.stdout.readline())
    handle = os.pidfd_open(worker)
    try:
        await _busy(worker)
        supervisor.kill()
        await supervisor.wait()
        ended, _, _ = await asyncio.to_thread(select.select, [handle], [], [], 60)
        assert ended, "the worker still runs"
    finally:
        os.close(handle)
