"""Real pools of real sandbox workers; the guests are built once per machine, into the user's cache."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.pool import WasmPool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WasmPool]:
    """A pool of one worker, so that every run of a module follows the one before on the same place."""
    pool = WasmPool(ScriptSettings(workers=1, max_wall_seconds=120))
    await pool.start()
    yield pool
    await pool.close()
