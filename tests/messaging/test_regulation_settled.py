"""What is counted of a delivery is what becomes of it, and whoever waits for an answer is told of a dead end only."""

from __future__ import annotations

import math

import pytest

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import BrokerUnreachable
from rockbot_messaging.measures import NO_MEASURES, Counters, Measures, Names, counter
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.regulation.settled import counted
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

HOME = ReturnAddress("home", "token")


class Bench:
    def __init__(self, answer: Verdict | Exception, *, refuses: Exception | None = None) -> None:
        self.answer = answer
        self.refuses = refuses
        self.told: list[MessageEnvelope] = []
        self.measures = Counters()
        policy = RetryPolicy(max_attempts=2, max_handbacks=3)
        work = WorkSubscription(name="work", patterns=("t",), retry=policy, guard=None)
        regulation = Regulation(clock=FakeClock(), measures=self.measures, publish=self._publish, source="me")
        self.handle = regulation.around(work, self._handle)

    async def _handle(self, envelope: MessageEnvelope) -> Verdict:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _publish(self, notice: MessageEnvelope) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.told.append(notice)

    async def deliver(self, **fields: object) -> Verdict:
        given = {"topic": "t", "body": b"", "message_id": "m", "type": "", "return_address": HOME, **fields}
        return await self.handle(MessageEnvelope(**given))  # type: ignore[arg-type]

    @property
    def outcomes(self) -> dict[str, float]:
        return {
            dict(labels)["outcome"]: value
            for (name, labels), value in self.measures.snapshot().items()
            if name == Names.SETTLED
        }


@pytest.mark.parametrize(
    ("answer", "fields", "outcome", "told"),
    [
        (Ack(), {}, "ack", 0),
        (Retry(), {}, "retry", 0),
        (Retry(), {"attempt": 2}, "dead_letter", 1),
        (Retry(counted=False), {"attempt": 2}, "handback", 0),
        (Retry(counted=False), {"handbacks": 3}, "dead_letter", 1),
        (DeadLetter(reason="bad"), {}, "dead_letter", 1),
        (KeyError("x"), {}, "retry", 0),
        (KeyError("x"), {"attempt": 2}, "dead_letter", 1),
        (DeadLetter(reason="bad"), {"return_address": None}, "dead_letter", 0),
        (Retry(after=math.nan), {}, "retry", 0),
    ],
)
async def test_each_end_is_counted_once_and_a_dead_one_is_told(
    answer: Verdict | Exception, fields: dict[str, object], outcome: str, told: int
) -> None:
    bench = Bench(answer)
    await bench.deliver(**fields)
    assert bench.outcomes == {outcome: 1}
    assert len(bench.told) == told


async def test_a_dead_end_that_could_not_be_told_is_counted_as_the_hand_back_it_becomes() -> None:
    bench = Bench(DeadLetter(reason="bad"), refuses=BrokerUnreachable("away"))
    verdict = await bench.deliver()
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert bench.outcomes == {"handback": 1}


@pytest.mark.parametrize(
    "fields", [{"message_id": "\ud800"}, {"tenant": "a\udfff"}, {"return_address": ReturnAddress("home", "\ud800")}]
)
async def test_a_message_of_which_no_notice_could_be_sent_is_dead_all_the_same(fields: dict[str, object]) -> None:
    bench = Bench(DeadLetter(reason="bad"))
    assert await bench.deliver(**fields) == DeadLetter(reason="bad")
    assert not bench.told


async def test_a_watchers_deliveries_are_counted_too() -> None:
    measures = Counters()
    answers = iter([Ack(), Ack(), Retry(), DeadLetter(reason="x")])

    async def watch(envelope: MessageEnvelope) -> Verdict:
        return next(answers)

    handle = counted("seen", watch, measures=measures)
    for _ in range(4):
        await handle(MessageEnvelope(topic="t", body=b"", message_id="m", type=""))
    assert measures.value(Names.SETTLED, subscription="seen", outcome="ack") == 2
    assert measures.value(Names.SETTLED, subscription="seen", outcome="dropped") == 2


def test_a_bound_counter_counts_as_any_other_whatever_the_measures_are() -> None:
    class Plain:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, dict[str, str]]] = []

        def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
            self.seen.append((name, amount, labels))

        def gauge(self, name: str, value: float, /, **labels: str) -> None: ...

    plain, counters = Plain(), Counters()
    for measures in (plain, counters, NO_MEASURES):
        given: Measures = measures
        counter(given, "n", a="1", b="2")()
    assert plain.seen == [("n", 1, {"a": "1", "b": "2"})]
    counters.count("n", b="2", a="1")
    assert counters.value("n", a="1", b="2") == 2
