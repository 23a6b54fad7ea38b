"""How others get the service: the factory, its settings, and errors for whoever configures it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import NO_TRACING, Tracing
from rockbot_scripts.embedding import service
from rockbot_scripts.errors import SandboxUnavailable
from rockbot_scripts.service import subscriptions
from rockbot_scripts.settings import ScriptSettings


@dataclass(frozen=True)
class Given:
    bus: MessageBus
    ledger: ResultLedger
    clock: SystemClock
    owner: str = "me"
    source: str = "test"
    namespace: str = "rockbot"
    regulation: Regulation = field(default_factory=lambda: Regulation(clock=SystemClock()))
    configure: Callable[[WorkSubscription], WorkSubscription] = field(default=lambda subscription: subscription)
    measures: Measures = NO_MEASURES
    tracing: Tracing = NO_TRACING


def _given(**fields: Any) -> Given:
    clock = SystemClock()
    return Given(bus=MemoryBus(clock=clock), ledger=StateLedger(MemoryStateStore(clock)), clock=clock, **fields)


def test_one_subscription_per_runtime_as_wide_as_the_pool() -> None:
    made = service({"workers": 3}, _given())
    assert [(item.name, item.patterns, item.parallelism) for item in made.subscriptions] == [
        ("scripts.python", ("script.invoke.python",), 3),
        ("scripts.javascript", ("script.invoke.javascript",), 3),
    ]
    assert tuple(made.subscriptions) == subscriptions(ScriptSettings(workers=3))


def test_whoever_runs_it_has_the_last_word_on_its_subscriptions() -> None:
    made = service({"workers": 3}, _given(configure=lambda item: replace(item, prefetch=50)))
    assert [item.prefetch for item in made.subscriptions] == [50, 50]


@pytest.mark.parametrize("section", [{"worker": 3}, {"workers": 0}, {"max_wall_seconds": "long"}, {"recycle_after": 0}])
def test_a_wrong_setting_is_named(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(section))):
        service(section, _given())


async def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    made = service({"cache_dir": str(blocked / "below")}, _given())
    with pytest.raises(SandboxUnavailable, match=r"cannot be built.*set scripts\.cache_dir"):
        await made.prepare()
    await made.stop(timeout=1)


@pytest.mark.sandbox
async def test_the_service_serves_until_it_is_told_to_stop() -> None:
    given = _given()
    await given.bus.open()
    made = service({"workers": 1}, given)
    stop = asyncio.Event()
    serving = asyncio.create_task(made.run_until(stop, drain_seconds=1))
    async with asyncio.timeout(60):
        while "scripts.python" not in {queue.subscription for queue in await given.bus.dead_letters.queues()}:
            await asyncio.sleep(0)
        stop.set()
        await serving
    assert made.describe()["running"] == 0
    await given.bus.close()
