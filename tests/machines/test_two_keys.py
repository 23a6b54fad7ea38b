"""Engine, recovery and timers run any machine: this one is no turn, and everything that kills turns is done to it."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from machines.two_keys import PATIENCE_MS, TOPIC, Door, Happened, Open, Opened, Turned, TwoKeys

from rockbot.context import Context
from rockbot.events import Event, EventRegistry, TimerDue
from rockbot.machines.engine import Engine
from rockbot.machines.machine import fold
from rockbot.machines.recovery import OutboxRecovery, TimerSweeper
from rockbot.outgoing import Outgoing
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door as Exchange
from rockbot_messaging.testing import FakeClock

REGISTRY = EventRegistry((Turned, Open, Opened, TimerDue))
STREAM = key("default", "door", "stream")


class House:
    """One door, and a network that loses, repeats and reorders."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStateStore(self.clock)
        self.machine = TwoKeys("front")
        self.engine = Engine(self.machine, self.store)
        self.steps: list[MessageEnvelope] = []
        self.doors: list[MessageEnvelope] = []
        self.opened: set[str] = set()
        self.turned = 0
        outgoing = Outgoing(self, clock=self.clock, source="test")  # type: ignore[arg-type]
        self.recovery = OutboxRecovery(self.store, outgoing, owner="a")
        self.sweeper = TimerSweeper(self.store, outgoing, owner="a")

    async def publish(self, envelope: MessageEnvelope, *, door: Exchange = Exchange.COMMANDS) -> None:
        assert door is Exchange.COMMANDS
        (self.doors if envelope.type == Open.type_name else self.steps).append(envelope)

    def turn(self, who: str) -> None:
        self.turned += 1
        self._arrive(Turned(who=who), f"k{self.turned}")

    def _arrive(self, event: Event, id: str) -> None:
        self.steps.append(MessageEnvelope(topic=TOPIC, body=event.to_body(), message_id=id, type=event.type_name))

    async def step(self, at: int, *, leaves: int | None = None) -> None:
        """Deliver one message; `leaves`: how many of what it sends leave before the process is killed."""
        if not self.steps:
            return
        envelope = self.steps.pop(at % len(self.steps))
        event = REGISTRY.decode(REGISTRY.resolve(envelope.type, envelope.topic), envelope.body)
        context = Context(envelope, clock=self.clock, source="test")
        await self.engine.step(STREAM, event, context)
        for emission in context.emissions[:leaves]:
            await self.publish(emission.envelope)
        if leaves is not None:
            self.steps.append(envelope)
            return
        for act in context.after_publish:
            await act()

    def open(self, *, again: bool) -> None:
        """The door answers a command; `again`: it dies before it has settled it."""
        if not self.doors:
            return
        command = self.doors.pop(0)
        self.opened.add(command.message_id)
        context = Context(command, clock=self.clock, source="door")
        context.answer(Opened())
        self.steps.append(context.emissions[0].envelope)
        if again:
            self.doors.append(command)

    async def check(self) -> Door:
        """The state by its newest snapshot is the fold of the whole journal."""
        state, version = await self.engine.state(STREAM)
        records = await self.store.read(STREAM, limit=10_000)
        told: list[Happened] = [self.machine.load_record(record.value) for record in records]
        assert fold(self.machine, self.machine.initial(), told) == state
        assert len(told) == version
        assert state.opened == sum(record.what == "opened" for record in told)
        return state


MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["turn", "turn", "turn", "step", "step", "step", "crash", "open", "open again", "time", "sweep"]
        ),
        st.integers(0, 5),
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(MOVES)
def test_a_door_opens_once_for_every_two_keys_whatever_dies_on_the_way(moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        house = House()
        await house.store.open()
        for kind, number in moves:
            match kind:
                case "turn":
                    house.turn("abc"[number % 3])
                case "step":
                    await house.step(number)
                case "crash":
                    await house.step(number, leaves=number % 2)
                case "open" | "open again":
                    house.open(again=kind == "open again")
                case "time":
                    house.clock.advance(number * 13)
                case "sweep":
                    await house.sweeper.run_once()
                    await house.recovery.run_once()
            await house.check()
        for _ in range(100):
            while house.steps or house.doors:
                await house.step(0)
                house.open(again=False)
            house.clock.advance(PATIENCE_MS / 1000 + 1)
            swept, repeated = await house.sweeper.run_once(), await house.recovery.run_once()
            if not (swept or repeated or house.steps):
                break
        state = await house.check()
        assert state == Door(opened=len(house.opened), lapsed=state.lapsed), "a key that nobody followed was taken back"
        assert not await house.store.due(before_ms=2**60, limit=1)

    asyncio.run(play())
