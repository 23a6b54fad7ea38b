"""The state store, traced: a span for each step that is read and written. What runs by the clock alone has none."""

from __future__ import annotations

from typing import Any, Final, cast, final

from rockbot.state.keys import Key
from rockbot.state.ports import Append, Loaded, StateStore
from rockbot.telemetry import semconv
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["traced_store"]


def traced_store(store: StateStore, tracing: Tracing) -> StateStore:
    """`store` with spans; itself where nothing is traced."""
    return store if tracing is NO_TRACING else cast("StateStore", _TracedStore(store, tracing))


#: What the conventions call a system where we call it otherwise.
_SYSTEMS: Final = {"postgres": "postgresql"}


@final
class _TracedStore:
    """Only the two calls that every step of a turn makes: the rest goes straight to the store."""

    def __init__(self, inner: StateStore, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing
        kind = type(inner).__name__.removesuffix("StateStore").lower()
        self._system = _SYSTEMS.get(kind, kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        with self._tracing.span("load state", self._said("load"), kind="client"):
            return await self._inner.load(stream, handled=handled)

    async def append(self, step: Append) -> int:
        with self._tracing.span("append state", self._said("append"), kind="client"):
            return await self._inner.append(step)

    def _said(self, operation: str) -> dict[str, str]:
        return {semconv.DB_SYSTEM_NAME: self._system, semconv.DB_OPERATION_NAME: operation}
