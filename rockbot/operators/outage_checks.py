"""What `doctor` says of outages: subscriptions of any process on this state store that only probe because all fails."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rockbot.operators.checks import Probe
from rockbot.operators.models import Check
from rockbot.presence import ProcessStatus, ToldOutage, processes
from rockbot.state.ports import StateStore

__all__ = ["outage_probe"]

#: Outages told in full.
_TOLD: Final = 5


def outage_probe(store: StateStore) -> Probe:
    """Whether a process on this store sees everything fail. The store is open, and stays the caller's to close."""

    async def outages() -> Check:
        return _check(await processes(store))

    return outages


def _check(found: list[ProcessStatus]) -> Check:
    told = [_line(process, outage) for process in found for outage in process.outages]
    if not told:
        count = len(found)
        seen = f"{count} process{'' if count == 1 else 'es'} on this state store"
        detail = f"none in {seen}" if found else "no process has said anything on this state store in the last minute"
        return Check(name="outages", status="ok", detail=detail)
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return Check(
        name="outages",
        status="warn",
        detail="; ".join(told[:_TOLD]) + more,
        advice="every message fails there, so only probes are handled and no attempt is spent; mend what the error names,"
        " and it goes on by itself",
    )


def _line(process: ProcessStatus, outage: ToldOutage) -> str:
    since = datetime.fromtimestamp(outage.since_ms / 1000, UTC)
    return f"{outage.subscription} in {process.owner} since {since:%Y-%m-%d %H:%M:%SZ}: {outage.error}"
