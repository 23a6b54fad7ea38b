"""What `doctor` says of model providers: those to which no host on this state store sends anything at present."""

from __future__ import annotations

from datetime import UTC, datetime

from rockbot.catalogue.circuits import ToldCircuit, circuits
from rockbot.operators.checks import Probe
from rockbot.operators.models import Check
from rockbot.state.ports import StateStore

__all__ = ["backends_probe"]


def backends_probe(store: StateStore) -> Probe:
    """Whether a provider is left alone. The store is open, and stays the caller's to close."""

    async def backends() -> Check:
        return _check(await circuits(store), await store.now_ms())

    return backends


def _check(found: dict[str, ToldCircuit], now_ms: int) -> Check:
    shut = [f"{name} {_until(its)}" for name, its in sorted(found.items()) if its.until_ms > now_ms]
    if shut:
        return Check(
            name="backends",
            status="warn",
            detail="; ".join(shut),
            advice="model calls wait in the broker meanwhile and go on by themselves; `rockbot models check` tries one",
        )
    tried = [f"{name} with one call at a time ({its.error})" for name, its in sorted(found.items()) if its.doubtful]
    detail = f"tried again: {'; '.join(tried)}" if tried else "no provider of models is left alone"
    return Check(name="backends", status="ok", detail=detail)


def _until(its: ToldCircuit) -> str:
    until = f"{datetime.fromtimestamp(its.until_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    why = "asked for it" if its.cause == "throttled" else "keeps failing"
    return f"{why} and is left alone until {until}: {its.error}"
