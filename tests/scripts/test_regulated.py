"""The script service stands behind the same guard, marks and counts as every handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from rockbot.state.ledger import StateLedger
from rockbot.state.marks import StateStartMarks
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder, SequenceIds
from rockbot_scripts.contract import ScriptInvoke, ScriptResult
from rockbot_scripts.errors import SandboxUnavailable
from rockbot_scripts.service import ScriptService
from rockbot_scripts.settings import ScriptSettings


class Runner:
    """A runner whose sandboxes can be had, or not."""

    def __init__(self) -> None:
        self.broken = True
        self.runs = 0

    async def start(self) -> None: ...

    async def run(
        self, invoke: ScriptInvoke, *, cancel: asyncio.Event | None = None, time_left: float | None = None
    ) -> ScriptResult:
        self.runs += 1
        if self.broken:
            raise SandboxUnavailable("no worker can be started")
        return ScriptResult(status="ok", stdout="1")

    def describe(self) -> Mapping[str, object]:
        return {}

    async def close(self) -> None: ...


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.bus = MemoryBus(broker=MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1)))
        self.store = MemoryStateStore(self.clock)
        self.marks = StateStartMarks(self.store)
        self.measures = Counters()
        self.runner = Runner()
        self.regulation = Regulation(
            clock=self.clock,
            measures=self.measures,
            marks=self.marks,
            publish=self.bus.publisher.publish,
            source="scripts",
        )
        self.service = ScriptService(
            self.runner,
            bus=self.bus,
            ledger=StateLedger(self.store),
            clock=self.clock,
            settings=ScriptSettings(workers=2),
            owner="me",
            regulation=self.regulation,
        )

    async def publish(self, number: int) -> None:
        await self.bus.publish(
            MessageEnvelope(
                topic="script.invoke.python",
                body=json.dumps({"code": "print(1)"}).encode(),
                message_id=f"m{number}",
                type="",
                return_address=ReturnAddress("results", "token"),
            )
        )

    def settled(self, outcome: str) -> float:
        return self.measures.value(Names.SETTLED, subscription="scripts.python", outcome=outcome)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.store.open()
    await bench.bus.open()
    await bench.bus.declare([WorkSubscription(name="results", patterns=("results",))])
    await bench.service.start()
    yield bench
    await bench.service.stop(timeout=5)
    await bench.bus.close()


async def test_a_service_without_sandboxes_probes_and_then_answers_every_request(bench: Bench) -> None:
    for number in range(15):
        await bench.publish(number)
    async with asyncio.timeout(60):
        while not bench.regulation.outages():
            await asyncio.sleep(0)
        assert bench.settled("retry") == 10
        for _ in range(200):
            bench.clock.advance(0.5)
            for _ in range(10):
                await asyncio.sleep(0)
        assert bench.runner.runs < 25
        bench.runner.broken = False
        while bench.settled("ack") < 15:
            bench.clock.advance(0.5)
            await asyncio.sleep(0)
    assert bench.settled("retry") == 10, "an attempt was spent in the outage"
    assert bench.settled("dead_letter") == 0
    assert not bench.regulation.outages()


async def test_a_request_that_killed_three_services_is_a_dead_letter_that_is_told(bench: Bench) -> None:
    bench.runner.broken = False
    for _ in range(3):
        await bench.marks.begin("scripts.python", "m1", tenant="default")
    await bench.service.stop(timeout=1)

    handle = bench.regulation.around(bench.service.subscriptions[0], bench.service.handle)
    results = Recorder()
    await bench.bus.subscriber.subscribe(WorkSubscription(name="results", patterns=("results",)), results)
    killer = MessageEnvelope(
        topic="script.invoke.python",
        body=b'{"code": "1"}',
        message_id="m1",
        type="",
        redelivered=True,
        return_address=ReturnAddress("results", "token"),
    )
    await handle(killer)
    (told,) = await results.wait_for(1)
    assert told.type == "rockbot.agent.step-stalled"
    assert bench.runner.runs == 0
    assert bench.settled("dead_letter") == 1
