"""A machine that is no turn: it adds numbers, asks for a receipt of each, and reminds itself."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from rockbot.errors import PermanentFailure
from rockbot.events import Event, TimerDue
from rockbot.machines.machine import Command, Decision, IndexWrite, Input, TimerRequest
from rockbot.state.keys import key
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.ports import Door


class Add(Event):
    type_name: ClassVar[str] = "test.add"
    topics: ClassVar[tuple[str, ...]] = ("test.add",)
    amount: int
    note: str = ""
    remind_ms: int | None = None


class Receipt(Event):
    type_name: ClassVar[str] = "test.receipt"
    of: str


class Total(Event):
    type_name: ClassVar[str] = "test.total"
    door: ClassVar[Door] = Door.PUBLIC
    total: int


class Watched(Event):
    type_name: ClassVar[str] = "test.watched"
    door: ClassVar[Door] = Door.LOSSY
    total: int


class Counting:
    """State: the sum and how many inputs there were. Records: amounts."""

    def __init__(self, *, records_per_step: int = 1, stubborn: bool = False) -> None:
        self._each = records_per_step
        self._stubborn = stubborn

    def initial(self) -> tuple[int, int]:
        return 0, 0

    def decide(self, state: tuple[int, int], given: Input) -> Decision[int]:
        match given.event:
            case Receipt(of=of):
                return Decision(records=(0,), answered=(of,))
            case TimerDue():
                return Decision(records=(1000,))
            case Add(amount=amount, remind_ms=remind_ms):
                if amount < 0:
                    raise PermanentFailure("amounts are not negative")
                if "receipt" in given.oversize and not self._stubborn:
                    return Decision(records=(0,), commands=(Command(name="total", event=Total(total=-1), topic="t.t"),))
                total = state[0] + amount
                reminder = (
                    ()
                    if remind_ms is None
                    else (
                        TimerRequest(
                            id="reminder",
                            due_ms=remind_ms,
                            event=TimerDue(timer_id="reminder", purpose="remind", due_ms=remind_ms),
                            topic="test.step",
                            return_address=ReturnAddress("test.step", "s1"),
                        ),
                    )
                )
                return Decision(
                    records=(amount, *[0] * (self._each - 1)),
                    commands=(
                        Command(name="receipt", event=given.event, topic="test.desk", awaits_answer=True),
                        Command(name="total", event=Total(total=total), topic="test.total"),
                    ),
                    signals=(Command(name="watched", event=Watched(total=total), topic="test.watched"),),
                    timers=reminder,
                    index=(IndexWrite(key("default", "sum", "s1"), str(total).encode()),),
                )
        raise AssertionError("unreachable")

    def evolve(self, state: tuple[int, int], record: int) -> tuple[int, int]:
        return state[0] + record, state[1] + 1

    def dump_record(self, record: int) -> bytes:
        return json.dumps(record).encode()

    def load_record(self, data: bytes) -> int:
        return int(json.loads(data))

    def dump_state(self, state: tuple[int, int]) -> bytes:
        return json.dumps(state).encode()

    def load_state(self, data: bytes) -> tuple[int, int]:
        value: Any = json.loads(data)
        return value[0], value[1]
