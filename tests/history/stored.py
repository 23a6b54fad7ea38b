"""Conversations that were played, in a store: what the engine would have stored."""

from __future__ import annotations

from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentTask
from rockbot.events.models import Usage
from rockbot.machines.turn import TurnMachine
from rockbot.state.keys import conversation_key
from rockbot.state.ports import Append, IndexRow, StateStore

__all__ = ["Talk"]


class Talk:
    """A conversation whose every step is appended to `store`."""

    def __init__(self, store: StateStore, conversation: str = "c1", *, tenant: str = "default") -> None:
        self.play = Play(agent("add"), tenant=tenant)
        self.play.machine = TurnMachine(conversation, agent("add"), default_timeout=60)
        self.stream = conversation_key(tenant, conversation)
        self._store = store
        self._steps = 0

    async def task(self, task_id: str, text: str = "go", *, user: str = "", at_ms: int | None = None) -> None:
        if at_ms is not None:
            self.play.clock.advance(at_ms / 1000 - self.play.clock.now_ms() / 1000)
        await self._keep(self.play.take(AgentTask(input=text, user=user), id=task_id))

    async def reply(self, text: str = "done", *, cost: float | None = None, after: float = 2.0) -> None:
        self.play.clock.advance(after)
        call = self._open()
        usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=3)
        await self._keep(self.play.take(says(text, usage=usage, cost=cost), call=call))

    async def use_tool(self) -> None:
        await self._keep(self.play.take(calls("add", usage=Usage(input_tokens=10, output_tokens=5)), call=self._open()))
        await self._keep(self.play.take(result("42"), call=self._open()))

    def _open(self) -> str:
        return next(iter(self.play.open))

    async def _keep(self, decision) -> None:  # type: ignore[no-untyped-def]
        self._steps += 1
        loaded = await self._store.load(self.stream)
        await self._store.append(
            Append(
                stream=self.stream,
                expected_version=loaded.version,
                records=tuple(self.play.machine.dump_record(record) for record in decision.records),
                handled=f"step{self._steps}",
                index=tuple(IndexRow(row.key, row.value) for row in decision.index),
            )
        )
