"""What `doctor` says of agents: processes whose configuration was refused, or needs a restart to count."""

from __future__ import annotations

from datetime import UTC, datetime

from rockbot.operators.checks import Probe
from rockbot.operators.models import Check
from rockbot.presence import ProcessStatus, processes
from rockbot.state.ports import StateStore

__all__ = ["agents_probe"]


def agents_probe(store: StateStore) -> Probe:
    """Whether every host on this store runs the newest agents. The store is open, and stays the caller's to close."""

    async def agents() -> Check:
        return _check(await processes(store))

    return agents


def _check(found: list[ProcessStatus]) -> Check:
    told = {process.owner: process.agents for process in found if process.agents is not None}
    refused = [
        f"{owner} refused a configuration at {datetime.fromtimestamp(its.refused_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}:"
        f" {its.refused}"
        for owner, its in told.items()
        if its.refused
    ]
    if refused:
        advice = "the agents from before stay in force; mend what is named, then `rockbot agents reload`"
        return Check(name="agents", status="warn", detail="; ".join(refused[:3]), advice=advice)
    restart = sorted({name for its in told.values() for name in its.restart})
    if restart:
        detail = f"settings have changed that count only after a restart: {', '.join(restart)}"
        return Check(name="agents", status="warn", detail=detail, advice="restart the hosts, one after another")
    detail = (
        f"as configured in {len(told)} process{'' if len(told) == 1 else 'es'}" if told else "no host says anything"
    )
    return Check(name="agents", status="ok", detail=detail)
