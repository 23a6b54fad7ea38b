"""One host of the test of many conversations: ``talker.py SETTINGS TRACE [wait]``; with ``wait`` it begins on a line of input.

Its model works through a list of errands, one tool call each, and reads from the transcript how far it is. Every beginning
and end of a call, and every result that is safely in the ledger, is a line of the trace. All hosts append to that, so the
order of lines is the order of events. A transcript that is not as it must be is a line, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, Final, final

from rockbot.buses import make_bus
from rockbot.container import compose
from rockbot.events import LlmRequest, LlmResponse, Message, TextPart, ToolCallPart, ToolResultPart, Usage
from rockbot.llm import TextDelta
from rockbot.plugins import Contribution, Plugin, Services, load_plugins
from rockbot.settings import load
from rockbot.signals import stop_on_signals
from rockbot.state.ledger import StateLedger
from rockbot.state.open import open_store
from rockbot_handlers.llm.plugin import contribution
from rockbot_messaging.clock import RandomIds, SystemClock

#: Errands of a task: with the task itself, five replies of the model and four results of the tool, a turn has ten steps.
ERRANDS: Final = int(os.environ.get("TALKER_ERRANDS", "4"))
#: What every reply of the model takes.
TOKENS: Final = 4
#: Seconds that the model thinks.
_THINKS: Final = float(os.environ.get("TALKER_THINKS", "0"))


@cache
def _trace() -> int:
    return os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str, call: str, **more: Any) -> None:
    """One line of the trace."""
    line = {"what": what, "call": call, "pid": os.getpid(), "at": time.monotonic(), **more}
    os.write(_trace(), json.dumps(line).encode() + b"\n")


def done(name: str, errand: int) -> str:
    """What the tool says."""
    return f"{name} did {errand}"


@final
class Model:
    """Implements `rockbot.llm.LlmClient`."""

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        name = request.messages[0].text
        results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResultPart)]
        said = ["".join(part.text for part in result.parts if isinstance(part, TextPart)) for result in results]
        note("model", call_id, name=name, step=len(said))
        if said != [done(name, errand) for errand in range(len(said))] or any(result.is_error for result in results):
            note("disorder", call_id, name=name, said=said)
        if _THINKS:
            await asyncio.sleep(_THINKS)
        note("said", call_id)
        usage = Usage(output_tokens=TOKENS)
        if len(said) == ERRANDS:
            text = TextPart(text="; ".join(said))
            return LlmResponse(message=Message(role="assistant", parts=(text,)), usage=usage)
        call = ToolCallPart(call_id=f"e{len(said)}", tool="run", arguments={"name": name, "errand": len(said)})
        return LlmResponse(message=Message(role="assistant", parts=(call,)), stop_reason="tool_use", usage=usage)

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        yield await self.complete(request, call_id=call_id, deadline=deadline)

    async def count_tokens(self, request: LlmRequest) -> int:
        return 100

    async def close(self) -> None:
        pass


class Ledger:
    """Says what is safely written down."""

    def __init__(self, inner: StateLedger) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def finish(self, call_id: str, *, tenant: str, result: bytes) -> bytes:
        kept = await self._inner.finish(call_id, tenant=tenant, result=result)
        note("finished", call_id)
        return kept


def models(services: Services) -> Contribution:
    """The model workers."""
    return contribution(services, {"scripted": Model()})


async def main() -> None:
    settings = load(config=Path(sys.argv[1]))
    clock, ids = SystemClock(), RandomIds()
    store = open_store(settings.state_address, clock)
    bus = make_bus(settings, clock=clock, ids=ids, patience=60)
    plugins: list[tuple[str, Plugin]] = [
        *load_plugins(("logging", "deadline", "limits", "agent", "tools")),
        ("llm", models),
    ]
    ledger: Any = Ledger(StateLedger(store))
    host = compose(settings, bus=bus, store=store, ledger=ledger, plugins=plugins).host()
    if sys.argv[3:] == ["wait"]:
        print("composed", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    with stop_on_signals() as stop:
        await host.start()
        print("consuming", flush=True)
        await stop.wait()
        await host.drain()
        await host.close()


if __name__ == "__main__":
    asyncio.run(main())
