"""Turns over a store, with crashes at every seam, copies, reordering, dead letters, recovery and timers, at random.

The network here is a list, a crash is a step whose messages do not all leave, the workers keep a ledger. In the end every
task has one answer and every call was made once.
"""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from machines.stage import TIMEOUT, agent, calls, result, says

from rockbot.context import Context, Emission
from rockbot.events import (
    HOST_EVENTS,
    AgentResponse,
    AgentTask,
    Event,
    EventRegistry,
    LlmRequest,
    StepStalled,
    ToolInvoke,
)
from rockbot.machines.engine import Engine
from rockbot.machines.machine import fold
from rockbot.machines.recovery import OutboxRecovery, TimerSweeper
from rockbot.machines.turn import TurnMachine, token_parts
from rockbot.outgoing import Outgoing
from rockbot.state.keys import conversation_key
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door
from rockbot_messaging.testing import FakeClock

REGISTRY = EventRegistry(HOST_EVENTS)
COMMANDS = (LlmRequest.type_name, ToolInvoke.type_name)


class World:
    """Two conversations; everything between the processes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStateStore(self.clock)
        self.to_agents: list[MessageEnvelope] = []
        self.to_workers: list[MessageEnvelope] = []
        self.dead: list[MessageEnvelope] = []
        self.answers: dict[str, AgentResponse] = {}
        self.ledger: dict[str, Event] = {}
        self.tasks: list[str] = []
        outgoing = Outgoing(self, clock=self.clock, source="test")  # type: ignore[arg-type]
        self.recovery = OutboxRecovery(self.store, outgoing, owner="a")
        self.sweeper = TimerSweeper(self.store, outgoing, owner="a")

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        if envelope.type in COMMANDS:
            self.to_workers.append(envelope)
        elif envelope.type == AgentResponse.type_name:
            response = AgentResponse.model_validate_json(envelope.body)
            assert self.answers.setdefault(envelope.message_id, response) == response, "one id, two answers"
        elif door is not Door.LOSSY:
            self.to_agents.append(envelope)

    def ask(self, conversation: str) -> None:
        task = f"task{len(self.tasks)}"
        self.tasks.append(task)
        event = AgentTask(input="go", conversation_id=conversation)
        self.to_agents.append(
            MessageEnvelope(topic="agent.task.x", body=event.to_body(), message_id=task, type=event.type_name)
        )

    async def deliver(self, at: int, *, leaves: int | None = None) -> None:
        """One delivery to an agent. `leaves`: how many of its messages leave before the process is killed."""
        if not self.to_agents:
            return
        envelope = self.to_agents.pop(at % len(self.to_agents))
        event = REGISTRY.decode(REGISTRY.resolve(envelope.type, envelope.topic), envelope.body)
        if isinstance(event, AgentTask):
            conversation = event.conversation_id or ""
        else:
            assert envelope.return_address is not None
            conversation = token_parts(envelope.return_address.token)[0]
        context = Context(envelope, clock=self.clock, source="test")
        machine = TurnMachine(conversation, agent("add", "look", max_model_calls=3), default_timeout=TIMEOUT)
        await Engine(machine, self.store).step(conversation_key("default", conversation), event, context)
        for emission in context.emissions[:leaves]:
            await self._leave(emission)
        if leaves is not None:
            self.to_agents.append(envelope)  # never settled: the broker delivers it again
            return
        for act in context.after_publish:
            await act()

    async def _leave(self, emission: Emission) -> None:
        await self.publish(emission.envelope, door=emission.door)

    def work(self, at: int, *, again: bool = False) -> None:
        """A worker takes a command; `again`: it dies before it has settled it."""
        if not self.to_workers:
            return
        command = self.to_workers.pop(at % len(self.to_workers))
        if command.message_id not in self.ledger:
            reply = says("done") if at % 3 else calls(*["add", "look", "fly"][: at % 4])
            self.ledger[command.message_id] = reply if command.type == LlmRequest.type_name else result(str(at))
        context = Context(command, clock=self.clock, source="worker")
        context.answer(self.ledger[command.message_id])
        self.to_agents.append(context.emissions[0].envelope)
        if again:
            self.to_workers.append(command)

    def die(self, at: int) -> None:
        """A command becomes a dead letter; its turn is told first."""
        if not self.to_workers:
            return
        command = self.to_workers.pop(at % len(self.to_workers))
        self.dead.append(command)
        event = StepStalled(message_id=command.message_id, queue="q", reason="broken")
        assert command.return_address is not None
        self.to_agents.append(
            command.caused(
                f"stalled@{self.clock.now_ms()}",
                topic=command.return_address.topic,
                type=event.type_name,
                body=event.to_body(),
                source="worker",
                timestamp_ms=self.clock.now_ms(),
                return_address=command.return_address,
            )
        )

    def replay(self) -> None:
        self.to_workers.extend(self.dead)
        self.dead.clear()

    async def settle_down(self) -> None:
        """Nobody dies any more: everything under way arrives, dead letters are sent on, open commands are found."""
        for _ in range(200):
            self.replay()
            while self.to_agents or self.to_workers:
                await self.deliver(0)
                self.work(1)
            self.clock.advance(31)
            if not await self.recovery.run_once() and not await self.sweeper.run_once() and not self.to_agents:
                return
        raise AssertionError("it never ends")


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ask", "deliver", "deliver", "crash", "work", "work", "work again", "die", "replay", "time", "sweep"]),
        st.integers(0, 11),
    ),
    max_size=50,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(MOVES)
def test_every_task_is_answered_once_whatever_dies_on_the_way(moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        world = World()
        await world.store.open()
        for kind, number in moves:
            match kind:
                case "ask":
                    world.ask(f"c{number % 2}")
                case "deliver":
                    await world.deliver(number)
                case "crash":
                    await world.deliver(number, leaves=number % 4)
                case "work":
                    world.work(number)
                case "work again":
                    world.work(number, again=True)
                case "die":
                    world.die(number)
                case "replay":
                    world.replay()
                case "time":
                    world.clock.advance(number * 5)
                case "sweep":
                    await world.recovery.run_once()
                    await world.sweeper.run_once()
        await world.settle_down()
        assert sorted(response.task_id for response in world.answers.values()) == sorted(world.tasks)
        for conversation in ("c0", "c1"):
            machine = TurnMachine(conversation, agent(), default_timeout=TIMEOUT)
            stream = conversation_key("default", conversation)
            state, version = await Engine(machine, world.store).state(stream)
            records = await world.store.read(stream, limit=10_000)
            assert fold(machine, machine.initial(), (machine.load_record(record.value) for record in records)) == state
            assert len(records) == version
            assert state.turn is None
            assert not state.waiting
        assert not await world.store.due(before_ms=2**60, limit=10), "a timer outlived its task"

    asyncio.run(play())
