"""Everything the host sends goes out here, whether a handler emitted it or an outbox repeats it.

So both ways agree on what an undeliverable message means: a tool nobody offers becomes an answer for the model, an answer
whose reply queue has gone is noted and forgotten (the journal still has it), anything else is the caller's failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import final

from rockbot.context import Emission
from rockbot.events.tools import ToolInvoke, ToolResult
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.ports import Door, MessagePublisher

__all__ = ["Outgoing"]

logger = logging.getLogger(__name__)


@final
class Outgoing:
    """Publishes emissions; returns when all are confirmed."""

    def __init__(self, publisher: MessagePublisher, *, clock: Clock, source: str) -> None:
        self._publisher = publisher
        self._clock = clock
        self._source = source

    async def send(self, emissions: Sequence[Emission]) -> None:
        """Publish all of them; the first error is raised after every one has been tried.

        Raises:
            Unroutable: a command has no queue. Whatever `MessagePublisher.publish` raises.
        """
        if len(emissions) == 1:
            await self._send(emissions[0])
            return
        results = await asyncio.gather(*(self._send(emission) for emission in emissions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _send(self, emission: Emission) -> None:
        envelope = emission.envelope
        if emission.address:
            try:
                await self._publisher.send(envelope, address=emission.address)
            except Unroutable:
                logger.warning(
                    "answer not delivered: its reply queue is gone",
                    extra={
                        "message_id": envelope.message_id,
                        "address": emission.address,
                        "task": envelope.root_task_id,
                    },
                )
            return
        try:
            await self._publisher.publish(envelope, door=emission.door)
        except Unroutable:
            if (answer := self._no_such_tool(envelope)) is None:
                raise
            await self._publisher.publish(answer, door=Door.COMMANDS)

    def _no_such_tool(self, envelope: MessageEnvelope) -> MessageEnvelope | None:
        if envelope.type != ToolInvoke.type_name or envelope.return_address is None:
            return None
        invoke = ToolInvoke.model_validate_json(envelope.body)
        result = ToolResult.failure(invoke, f"no worker offers the tool {invoke.tool!r} at the moment")
        return envelope.caused(
            "unroutable",
            topic=envelope.return_address.topic,
            type=ToolResult.type_name,
            body=result.to_body(),
            source=self._source,
            timestamp_ms=self._clock.now_ms(),
            return_address=envelope.return_address,
            deadline_ms=None,
        )
