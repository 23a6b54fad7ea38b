"""The port behind which a script runs. The WASM pool is one runner; others answer with the same results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from rockbot_scripts.contract import ScriptInvoke, ScriptResult


class ScriptRunner(Protocol):
    """Runs one script at a time per call, any number of calls at once."""

    async def start(self) -> None:
        """Make the runner ready; raises `SandboxUnavailable` with a reason when it cannot be."""
        ...

    async def run(
        self,
        invoke: ScriptInvoke,
        *,
        cancel: asyncio.Event | None = None,
        time_left: float | None = None,
    ) -> ScriptResult:
        """Run `invoke` in a fresh sandbox and return what came of it.

        Whatever the script does is a result, never an exception. `cancel` set stops the run at once (status
        `cancelled`). `time_left` (seconds) bounds waiting for a free sandbox and the run together. When the calling
        task is cancelled the guest is stopped and `CancelledError` goes on. Raises `SandboxUnavailable` when no
        sandbox can be had.
        """
        ...

    def describe(self) -> Mapping[str, object]:
        """Return engine versions, sizes and which parts of the isolation are in force, ready for JSON."""
        ...

    async def close(self) -> None:
        """Stop every guest and free everything; a second call does nothing."""
        ...
