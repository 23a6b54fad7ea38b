"""From settings and contributions to what a host really does with deliveries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core.links import Link, Ping, envelope

from rockbot.chain import Order
from rockbot.container import HostContainer, compose
from rockbot.context import Context
from rockbot.errors import ConfigError
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.operators.outage_checks import outage_probe
from rockbot.plugins import Contribution, Services
from rockbot.plugins import Link as Registration
from rockbot.presence import processes
from rockbot.settings import Settings
from rockbot.state.memory import MemoryStateStore
from rockbot.subscribing import adjusted, check_names
from rockbot_messaging.measures import Names
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.retries import Fixed, RetryPolicy
from rockbot_messaging.subscriptions import (
    Lane,
    Ordered,
    OutageGuard,
    Rate,
    WatchSubscription,
    WorkSubscription,
)
from rockbot_messaging.testing import FakeClock, SequenceIds

WORK = WorkSubscription(name="pings", patterns=("test.ping",), prefetch=20, concurrency=5)
OTHER = WorkSubscription(name="elsewhere", patterns=("test.elsewhere",))


def settings(**section: Any) -> Settings:
    return Settings(subscriptions={"pings": section})


def made(**section: Any) -> WorkSubscription:
    return adjusted(WORK, settings(**section).subscriptions)


# -- every key has its effect


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        ({"prefetch": 7}, {"prefetch": 7}),
        ({"concurrency": 20}, {"concurrency": 20}),
        ({"rate": {"per_second": 2, "burst": 3}}, {"rate": Rate(per_second=2, burst=3)}),
        ({"order": {"by": "topic", "on_dead": "skip"}}, {"ordered": Ordered(by="topic", on_dead="skip")}),
        ({"order": {"lease_seconds": 3}}, {"ordered": Ordered(lease=3)}),
        ({"order": {"scan_seconds": 2}}, {"ordered": Ordered(scan=2)}),
        ({"order": {"max_waiting": 7}}, {"ordered": Ordered(most=7)}),
        (
            {"guard": {"failures": 4, "probe_seconds": 2, "longest_seconds": 9}},
            {"guard": OutageGuard(failures=4, probe=2, longest=9)},
        ),
        ({"guard": {"failures": 0}}, {"guard": None}),
        ({"remember_seconds": 60}, {"remember": 60}),
        ({"retry": {"max_attempts": 2}}, {"retry": RetryPolicy(max_attempts=2)}),
        ({"retry": {"backoff": "fixed", "seconds": 3}}, {"retry": RetryPolicy(backoff=Fixed(3))}),
        ({"retry": {"max_age": 60}}, {"retry": RetryPolicy(max_age=60)}),
        ({"retry": {"max_handbacks": 4}}, {"retry": RetryPolicy(max_handbacks=4)}),
        ({"retry": {"max_handback_age": 5}}, {"retry": RetryPolicy(max_handback_age=5)}),
    ],
)
def test_each_key_changes_what_it_names_and_nothing_else(section: dict[str, Any], changed: dict[str, Any]) -> None:
    from dataclasses import replace

    assert made(**section) == replace(WORK, **changed) != WORK


def test_what_is_not_given_stays_as_the_handler_has_it() -> None:
    from dataclasses import replace

    contributed = replace(
        WORK,
        rate=Rate(per_second=100),
        lane=Lane(group="g", rank=1, slots=2),
        ordered=Ordered(),
        remember=5,
        retry=RetryPolicy(max_attempts=9),
        guard=OutageGuard(failures=99),
    )
    assert adjusted(contributed, {}) == contributed
    assert adjusted(contributed, settings().subscriptions) == contributed


def test_remembering_can_be_switched_off() -> None:
    from dataclasses import replace

    assert adjusted(replace(WORK, remember=5), settings(remember_seconds=0).subscriptions).remember is None


def test_a_slow_rate_holds_no_more_than_it_can_begin_in_ten_minutes() -> None:
    assert made(rate={"per_second": 0.01, "burst": 2}).prefetch == 8
    assert made(rate={"per_second": 100}).prefetch == 20


# -- contradictions


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            {"concurrency": 21},
            (
                "setting 'subscriptions.\"pings\"': concurrency 21 is above prefetch 20, and a process handles no more than it"
                " holds: raise prefetch or lower concurrency"
            ),
        ),
        ({"concurrency": 5, "prefetch": 4}, "concurrency 5 is above prefetch 4"),
        (
            {"prefetch": 50, "rate": {"per_second": 0.01}},
            (
                "at 0.01 per second the last of 50 prefetched messages would wait in hand for more than 10 minutes: set"
                " prefetch to at most 7, or leave it out"
            ),
        ),
    ],
)
def test_values_that_contradict_each_other_are_explained(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**section)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"guard": {"probe_seconds": 61}}, "longest_seconds must not be below probe_seconds"),
        ({"order": {"by": "colour"}}, "an order is by conversation, correlation, topic or header:<name>"),
        ({"rate": {"per_second": 0}}, "greater than 0"),
        ({"rates": {}}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_refused_when_settings_are_read(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings(**section)


def test_a_name_that_nobody_receives_lists_those_there_are() -> None:
    wrong = Settings(subscriptions={"pingz": {"prefetch": 1}}).subscriptions
    with pytest.raises(ConfigError) as caught:
        check_names(wrong, [WORK, OTHER, WatchSubscription(name="seen")])
    assert str(caught.value) == (
        "setting 'subscriptions' names 'pingz', which no handler receives (received: elsewhere, pings)"
    )
    with pytest.raises(ConfigError, match="only watches"):
        check_names(Settings(subscriptions={"seen": {}}).subscriptions, [WatchSubscription(name="seen")])


def test_what_is_only_addressed_may_be_configured_for_whoever_consumes_it() -> None:
    host = House(Settings(subscriptions={"elsewhere": {"concurrency": 5000, "retry": {"max_attempts": 2}}}))
    (addressed,) = host.container.contributions().addressed
    assert addressed.retry.max_attempts == 2


def test_remembering_without_the_handler_that_does_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'deduplication': add it to 'handlers'"):
        House(settings(remember_seconds=5))


# -- a host


class House:
    """A host on the in-memory bus whose one handler fails while `down`."""

    def __init__(self, given: Settings | None = None, work: WorkSubscription = WORK) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1))
        self.bus = MemoryBus(broker=self.broker)
        self.client = MemoryBus(broker=self.broker)
        self.store = MemoryStateStore(self.clock)
        self.down = False
        self.tried: list[str] = []
        self.running = 0
        self.peak = 0

        def plugin(services: Services) -> Contribution:
            link = Registration(Order.WORK, "pings", Link(self._act, Ping))
            return Contribution(links=(link,), events=(Ping,), subscriptions=(work,), addressed=(OTHER,))

        self.container: HostContainer = compose(
            given or Settings(),
            bus=self.bus,
            store=self.store,
            clock=self.clock,
            ids=SequenceIds(2),
            plugins=[("pings", plugin)],
        )
        self.host = self.container.host()
        self.measures = self.container.measures()

    async def _act(self, event: Event, context: Context, call_next: CallNext) -> None:
        self.tried.append(context.envelope.message_id)
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.down:
            raise ConnectionError("the database is away")

    async def publish(self, *numbers: int) -> None:
        await self.client.publish_many([envelope(type="test.ping", message_id=f"m{number}") for number in numbers])

    def settled(self, outcome: str) -> float:
        return float(self.measures.value(Names.SETTLED, subscription="pings", outcome=outcome))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(settings(guard={"failures": 3}))
    await house.client.open()
    await house.host.start()
    yield house
    await house.host.close()
    await house.client.close()


async def test_a_host_counts_what_became_of_its_deliveries(house: House) -> None:
    await house.publish(1, 2)
    await house.until(lambda: house.settled("ack") == 2)
    await house.client.publish(envelope(b"unreadable", type="test.ping", message_id="bad"))
    await house.until(lambda: house.settled("dead_letter") == 1)
    assert house.settled("retry") == 0


async def test_an_outage_is_told_by_health_status_row_and_doctor_and_burns_no_attempts(house: House) -> None:
    probe = outage_probe(house.store)
    house.down = True
    await house.publish(*range(3))
    await house.until(lambda: house.host.health.outages())
    assert house.settled("retry") == 3
    await house.publish(*range(3, 10))
    good, details = house.host.health.ready()
    assert good
    (told,) = json.loads(json.dumps(details))["outages"]
    assert (told["subscription"], told["error"]) == ("pings", "ConnectionError: the database is away")
    await house.host.presence.run_once()
    (process,) = await processes(house.store)
    assert (process.what, process.subscriptions, process.outages[0].subscription) == (
        "host",
        ("control", "pings"),
        "pings",
    )
    check = await probe()
    assert check.status == "warn"
    assert "pings in " in check.detail
    assert check.detail.endswith(" since 2026-01-01 00:00:00Z: ConnectionError: the database is away")
    for _ in range(400):
        house.clock.advance(1)
        for _ in range(20):
            await asyncio.sleep(0)
    assert house.settled("retry") == 3, "an attempt was spent in an outage"
    assert len(house.tried) < 3 + 20
    house.down = False
    async with asyncio.timeout(60):
        while house.settled("ack") < 10:
            house.clock.advance(1)
            await asyncio.sleep(0)
    assert not house.host.health.outages()
    assert house.settled("dead_letter") == 0
    await house.host.presence.run_once()
    assert (await probe()).detail == "none in 1 process on this state store"


async def test_draining_in_an_outage_takes_no_time(house: House) -> None:
    house.down = True
    await house.publish(*range(3))
    await house.until(lambda: house.host.health.outages())
    await house.publish(*range(3, 8))
    await house.until(lambda: house.host.health.outages()[0].waiting == 5)
    async with asyncio.timeout(60):
        assert await house.host.drain() == 0


async def test_a_process_that_left_is_told_of_no_more(house: House) -> None:
    await house.host.presence.run_once()
    assert len(await processes(house.store)) == 1
    await house.host.drain()
    assert await processes(house.store) == []
    assert (await outage_probe(house.store)()).status == "ok"


async def test_a_process_that_was_killed_is_forgotten_after_a_minute(house: House) -> None:
    await house.host.presence.run_once()
    house.clock.advance(59)
    assert len(await processes(house.store)) == 1
    house.clock.advance(2)
    assert await processes(house.store) == []


@pytest.mark.parametrize(("section", "peak"), [({}, 5), ({"concurrency": 2}, 2), ({"prefetch": 3}, 3)])
async def test_what_is_set_is_what_the_host_does(section: dict[str, Any], peak: int) -> None:
    house = House(settings(**section))
    await house.client.open()
    await house.host.start()
    await house.publish(*range(30))
    await house.until(lambda: house.settled("ack") == 30)
    assert house.peak == peak
    await house.host.close()
    await house.client.close()


async def test_a_rate_that_is_set_is_kept_by_the_host() -> None:
    house = House(settings(rate={"per_second": 1, "burst": 2}))
    await house.client.open()
    await house.host.start()
    await house.publish(*range(4))
    await house.until(lambda: len(house.tried) == 2)
    for expected in (3, 4):
        await house.until(lambda: house.measures.value(Names.RATE_LIMITED, subscription="pings") == 2)
        house.clock.advance(1)
        await house.until(lambda expected=expected: len(house.tried) == expected)
    await house.host.close()
    await house.client.close()


async def test_a_retry_policy_that_is_set_decides_when_a_message_is_dead() -> None:
    house = House(settings(retry={"max_attempts": 1}))
    house.down = True
    await house.client.open()
    await house.host.start()
    await house.publish(1)
    await house.until(lambda: house.settled("dead_letter") == 1)
    assert house.tried == ["m1"]
    await house.host.close()
    await house.client.close()


async def test_lanes_that_disagree_are_a_configuration_error() -> None:
    from dataclasses import replace

    house = House()
    receiving = house.container.receiving()
    receiving.handler(replace(WORK, lane=Lane(group="g", rank=0, slots=1)))
    with pytest.raises(ConfigError, match="cannot be received: lanes of the group 'g' disagree"):
        receiving.handler(replace(WORK, name="more", lane=Lane(group="g", rank=1, slots=2)))
