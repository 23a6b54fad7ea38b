"""What `doctor` looks at. A check that cannot be made is a failed check, never an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from rockbot.operators.faults import problem_of
from rockbot.operators.models import Check
from rockbot_messaging.ports import MessageBus

__all__ = ["Probe", "bus_checks", "letter_checks", "run_probes"]

#: One more thing to look at.
Probe = Callable[[], Awaitable[Check]]

#: Seconds that a subscription may be without a consumer before that is a failure rather than a reconnect.
_IDLE_LIMIT: Final = 60.0


def bus_checks(bus: MessageBus) -> list[Check]:
    """Whether the bus is connected and everything that should consume does."""
    health = bus.health()
    if not health.connected:
        advice = "check the address, the network and the broker's own log; a host reconnects by itself"
        return [Check(name="broker", status="fail", detail=health.detail or "not connected", advice=advice)]
    checks = [Check(name="broker", status="ok", detail=health.detail or "connected")]
    for name, seconds in sorted(health.idle_seconds.items()):
        checks.append(
            Check(
                name=f"subscription {name}",
                status="fail" if seconds > _IDLE_LIMIT else "warn",
                detail=f"has had no consumer for {seconds:.0f} s",
                advice="it should come back within a minute; if it does not, restart the host and read its log",
            )
        )
    return checks


async def letter_checks(bus: MessageBus) -> list[Check]:
    """Whether messages wait for a person."""
    try:
        queues = await bus.dead_letters.queues()
    except Exception as exc:
        return [
            Check(name="dead letters", status="fail", detail=problem_of(exc).message, advice="see the broker check")
        ]
    waiting = [queue for queue in queues if queue.depth]
    if not waiting:
        return [Check(name="dead letters", status="ok", detail="none")]
    return [
        Check(
            name="dead letters",
            status="warn",
            detail=f"{queue.depth} in {queue.name}",
            advice=f"rockbot dlq list {queue.subscription}",
        )
        for queue in waiting
    ]


async def run_probes(probes: Iterable[Probe]) -> list[Check]:
    """The results of all probes."""
    checks = []
    for probe in probes:
        try:
            checks.append(await probe())
        except Exception as exc:
            name = getattr(probe, "__name__", "probe").strip("_").replace("_", " ")
            checks.append(Check(name=name, status="fail", detail=f"{type(exc).__name__}: {exc}"))
    return checks
