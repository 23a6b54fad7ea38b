"""Our loop: a whole host as `rockbot up` composes it, with its real model and tool workers around a fake model.

    rockbot_turns.py BROKER_URL STATE_URL NAMESPACE FOLDER TURNS [TOLD ENDPOINT]

TOLD is what the host tells of itself: "metrics" (as it comes), "off", or "metrics and traces", both sent to ENDPOINT.

Turns run one after the other, so that a step's time is its latency and not a queue's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import final

from rockbot.buses import is_embedded, make_bus
from rockbot.container import compose, known_work
from rockbot.events import AgentResponse, AgentTask, LlmRequest, LlmResponse, Message, TextPart, ToolCallPart
from rockbot.llm import TextDelta
from rockbot.plugins import Contribution, Plugin, Services, load_plugins
from rockbot.processes import keep_what_is_there
from rockbot.settings import Settings
from rockbot.state.open import open_store, sqlite_path
from rockbot.telemetry.process import telemetry_of
from rockbot_handlers.llm.plugin import contribution
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.tracing import traced
from rockbot_messaging.verdicts import Ack
from tests.benchmarks.loop import ANSWER, ASK, QUESTION, STEPS, WARM_UP, Steps
from tests.benchmarks.window import report, run

_TOOLS = '''
from rockbot.tools import Toolset
from tests.benchmarks.loop import found

room = Toolset("room")

@room.tool
async def look(shelf: int) -> str:
    """Look at a shelf."""
    return found(shelf)
'''


@final
class Model:
    """Implements `rockbot.llm.LlmClient`: asks for the next shelf until the last one."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        self._steps.model_began()
        asked = next(
            at for at, message in enumerate(reversed(request.messages)) if message.text and message.role == "user"
        )
        step = asked // 2 + 1
        if step < STEPS:
            call = ToolCallPart(call_id=f"call-{step}", tool="look", arguments={"shelf": step})
            reply = LlmResponse(
                message=Message(role="assistant", parts=(TextPart(text=ASK), call)), stop_reason="tool_use"
            )
        else:
            reply = LlmResponse(message=Message(role="assistant", parts=(TextPart(text=ANSWER),)))
        self._steps.model_ended()
        return reply

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        reply = await self.complete(request, call_id=call_id, deadline=deadline)
        if text := reply.message.text:
            yield TextDelta(text)
        yield reply

    async def count_tokens(self, request: LlmRequest) -> int:
        return 1000

    async def close(self) -> None:
        pass


def _telemetry(told: str, endpoint: str) -> dict[str, object]:
    if told == "metrics and traces":
        return {"metrics": "push", "traces": True, "endpoint": endpoint}
    return {"metrics": "off" if told == "off" else "scrape"}


async def turns(
    broker_url: str,
    state_url: str,
    namespace: str,
    folder: str,
    count: int,
    told: str = "metrics",
    endpoint: str = "",
) -> None:
    """Publish `count` tasks, each when the one before it has its answer."""
    logging.getLogger("rockbot").setLevel(logging.WARNING)
    tools = f"{folder}/tools.py"
    with open(tools, "w", encoding="utf-8") as file:
        file.write(_TOOLS)
    steps = Steps(warm_up=WARM_UP)
    settings = Settings.model_validate(
        {
            "broker_url": broker_url,
            "state_url": state_url,
            "namespace": namespace,
            "model": "scripted/demo",
            "tools": {"files": [tools]},
            "telemetry": _telemetry(told, endpoint),
        }
    )

    def models(services: Services) -> Contribution:
        return contribution(services, {"scripted": Model(steps)})

    names = tuple(name for name in settings.handlers if name not in ("llm", "scripts"))
    plugins: list[tuple[str, Plugin]] = [*load_plugins(names), ("llm", models)]
    clock, ids = SystemClock(), RandomIds()
    store = open_store(settings.state_address, clock)
    durable = sqlite_path(settings.state_address) if is_embedded(settings) else None
    telemetry = telemetry_of(settings)
    bus = traced(make_bus(settings, clock=clock, ids=ids, durable=durable), telemetry.tracing)
    container = compose(settings, bus=bus, store=store, plugins=plugins, telemetry=telemetry)
    host = container.host()
    host.when_warm(keep_what_is_there)
    answered: asyncio.Queue[AgentResponse] = asyncio.Queue()

    async def see(envelope: MessageEnvelope) -> Ack:
        answered.put_nowait(AgentResponse.model_validate_json(envelope.body))
        return Ack()

    await bus.open()
    await bus.declare(known_work(container))
    await host.start()
    await bus.subscriber.subscribe(WatchSubscription(name="bench", patterns=("agent.response.*",)), see)
    for _ in range(count + WARM_UP):
        task = MessageEnvelope(
            topic="agent.task.assistant",
            body=AgentTask(input=QUESTION).to_body(),
            message_id=ids.new_id(),
            type=AgentTask.type_name,
            source="bench",
        )
        await bus.publisher.publish(task)
        answer = await asyncio.wait_for(answered.get(), 60)
        assert answer.status == "completed" and answer.model_calls == STEPS, answer
        steps.turn_ended()
    await host.drain()
    await host.close()
    report({"turns": steps.result()})


if __name__ == "__main__":
    _, broker_url, state_url, namespace, folder, count, *told = sys.argv
    run(turns(broker_url, state_url, namespace, folder, int(count), *told))
