"""What `doctor` looks at. A check that cannot be made is a failed check, never an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from rockbot.letters.desk import LetterDesk
from rockbot.letters.models import QueueSummary
from rockbot.operators.faults import problem_of
from rockbot.operators.models import Check
from rockbot.state.ports import StateError
from rockbot_messaging.ports import DeadLetters, MessageBus

__all__ = ["DEAD_LETTERS", "Probe", "bus_checks", "letter_checks", "run_probes"]

#: One more thing to look at.
Probe = Callable[[], Awaitable[Check]]

#: Name of the checks that count dead letters.
DEAD_LETTERS: Final = "dead letters"
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


async def letter_checks(broker: DeadLetters, desk: LetterDesk | None) -> list[Check]:
    """Whether messages wait for a person: counts from the desk, or the broker's alone when there is no desk."""
    try:
        queues = await _summaries(broker, desk)
    except Exception as exc:
        return [Check(name=DEAD_LETTERS, status="fail", detail=problem_of(exc).message, advice="see the broker check")]
    waiting = [queue for queue in queues if queue.depth]
    if not waiting:
        return [Check(name=DEAD_LETTERS, status="ok", detail="none")]
    return [
        Check(name=DEAD_LETTERS, status="warn", detail=_detail(queue), advice=f"rockbot dlq list {queue.subscription}")
        for queue in waiting
    ]


async def _summaries(broker: DeadLetters, desk: LetterDesk | None) -> list[QueueSummary]:
    if desk is not None:
        try:
            return await desk.queues()
        except StateError:
            pass  # another check says that the state is gone; the letters are there all the same
    return [
        QueueSummary(name=queue.name, subscription=queue.subscription, depth=queue.depth)
        for queue in await broker.queues()
    ]


def _detail(queue: QueueSummary) -> str:
    parts = [f"{queue.depth} in {queue.name}"]
    if queue.per_hour:
        parts.append(f"{queue.per_hour} in the last hour")
    if queue.oldest_ms:
        parts.append(f"the oldest since {datetime.fromtimestamp(queue.oldest_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}")
    return ", ".join(parts)


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
