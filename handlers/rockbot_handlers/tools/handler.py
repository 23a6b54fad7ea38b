"""The worker of function tools: one message is one call, made once, and answered whatever it comes to.

What may run is decided here, where it runs: the tool exists, policy and approval allow it, the arguments fit, there is a slot.
Whatever is wrong with these is an answer for the model. A finished call is answered from the ledger; one whose end is unknown is
made again only where that is harmless, and else the answer says that the outcome is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, final

from rockbot import topics
from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import AgentStatus, Event, ToolInvoke, ToolResult
from rockbot.handler import CallNext
from rockbot.plugins import Services
from rockbot.telemetry import semconv
from rockbot.tools.admission import Admission
from rockbot.tools.calling import FunctionCalls, Outcome, unknown_outcome
from rockbot.tools.context import ToolArtifacts, ToolContext
from rockbot.tools.errors import FunctionRaised, ToolError
from rockbot.tools.slots import Slot, Slots
from rockbot.tools.toolset import FunctionTool, Toolset
from rockbot_handlers.tools.progress import Progress
from rockbot_messaging.calls import CallRefused, LedgeredCalls
from rockbot_messaging.measures import Names

__all__ = ["ToolsHandler"]

logger = logging.getLogger(__name__)


@final
class ToolsHandler:
    """Takes the calls of its own toolsets and passes the rest on."""

    def __init__(self, toolsets: Mapping[str, Toolset], admission: Admission, services: Services) -> None:
        self._toolsets = {topics.tool_invoke(name): toolset for name, toolset in toolsets.items()}
        self._admission = admission
        self._services = services
        settings = services.settings
        self._calls = FunctionCalls(output_limit=settings.tools.output_limit)
        self._slots = Slots(services.state, owner=services.owner, threads=settings.tools.max_threads)
        self._once = self._ledgered(repeatable=False)
        self._again = self._ledgered(repeatable=True)

    def _ledgered(self, *, repeatable: bool) -> LedgeredCalls:
        services = self._services
        return LedgeredCalls(
            services.ledger,
            owner=services.owner,
            # A tool that asks to be tried again says that nothing was done.
            harmless=(Exception,) if repeatable else (TemporaryFailure,),
            cancelling_is_harmless=repeatable,
            claim_seconds=services.settings.host.claim_seconds,
            running=services.running,
        )

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (ToolInvoke,)

    async def handle(self, event: ToolInvoke, context: Context, call_next: CallNext) -> None:
        toolset = self._toolsets.get(context.envelope.topic)
        if toolset is None:
            await call_next(event, context)
            return
        if context.envelope.return_address is None:
            raise PermanentFailure(f"a call of {event.tool!r} without a return address cannot be answered")
        tool = toolset.get(event.tool)
        if tool is None:
            known = ", ".join(each.spec.name for each in toolset) or "none"
            context.answer(ToolResult.failure(event, f"there is no tool {event.tool!r} here (there are: {known})"))
            return
        call_id = context.envelope.message_id
        if (refusal := self._admission.refusal(event, tool.spec, message_id=call_id)) is not None:
            context.answer(refusal)
            return
        try:
            arguments = tool.signature.arguments(event.arguments)
        except ToolError as exc:
            context.answer(ToolResult.failure(event, str(exc)))
            return
        slot = await self._slots.take(tool.spec, call_id=call_id, in_thread=tool.in_thread)
        try:
            await self._call(tool, event, arguments, context, slot)
        finally:
            slot.close()

    async def _call(
        self, tool: FunctionTool, event: ToolInvoke, arguments: dict[str, Any], context: Context, slot: Slot
    ) -> None:
        envelope = context.envelope

        async def work(starts: int) -> bytes:
            progress = Progress(partial(self._tell, event, context))
            try:
                own = self._context(event, context, starts, progress)
                outcome = await self._measured(event, context, partial(self._outcome, tool, arguments, own, slot))
            finally:
                await progress.close()
            result = ToolResult(call_id=event.call_id, tool=event.tool, parts=outcome.parts, is_error=outcome.is_error)
            return result.to_body()

        ledgered = self._again if tool.spec.repeatable else self._once
        under = (envelope.root_task_id,)
        try:
            body = await ledgered.run(envelope.message_id, tenant=envelope.tenant, work=work, under=under)
        except CallRefused as exc:
            logger.info("tool call not made", extra={"call_id": envelope.message_id, "reason": str(exc)})
            return
        context.answer(ToolResult.model_validate_json(body))

    async def _measured(self, event: ToolInvoke, context: Context, call: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What the call comes to, counted and traced."""
        measures, outcome = self._services.measures, "raised"
        attributes = {
            semconv.GEN_AI_OPERATION_NAME: semconv.EXECUTE_TOOL,
            semconv.GEN_AI_TOOL_NAME: event.tool,
            semconv.GEN_AI_TOOL_CALL_ID: event.call_id,
            semconv.GEN_AI_TOOL_TYPE: "function",
            semconv.GEN_AI_CONVERSATION_ID: context.envelope.conversation_id or "",
        }
        began = context.clock.monotonic()
        with self._services.tracing.span(f"{semconv.EXECUTE_TOOL} {event.tool}", attributes) as span:
            try:
                result = await call()
                outcome = "error" if result.is_error else "ok"
            finally:
                measures.count(Names.TOOL_CALLS, 1, tool=event.tool, outcome=outcome)
                measures.observe(Names.TOOL_DURATION, context.clock.monotonic() - began, tool=event.tool)
            if result.is_error:
                span.failed("tool_error")
        return result

    async def _outcome(
        self, tool: FunctionTool, arguments: dict[str, Any], context: ToolContext, slot: Slot
    ) -> Outcome:
        spec = tool.spec
        if context.starts > 1 and not spec.repeatable:
            return unknown_outcome(spec, "an earlier attempt at this call was interrupted")
        try:
            return await self._calls.call(tool, arguments, context, slot=slot)
        except FunctionRaised as raised:
            if spec.repeatable:
                raise raised.error from None
            logger.exception(
                "a tool failed unexpectedly; its model is told that the outcome is unknown",
                extra={"tool": spec.name, "call_id": context.call_id},
                exc_info=raised.error,
            )
            return unknown_outcome(spec, f"{spec.name} failed unexpectedly ({type(raised.error).__name__})")

    async def _tell(self, event: ToolInvoke, context: Context, text: str, fraction: float | None, number: int) -> None:
        envelope = context.envelope
        status = AgentStatus(
            task_id=envelope.root_task_id or "",
            conversation_id=envelope.conversation_id or "",
            agent=event.agent,
            kind="tool_progress",
            text=text[:2000],
            tool=event.tool,
            fraction=None if fraction is None else min(1.0, max(0.0, fraction)),
        )
        topic = topics.status(event.agent)
        await self._services.signal(context.make(status, topic=topic, name=f"progress:{number}"))

    def _context(self, event: ToolInvoke, context: Context, starts: int, progress: Progress) -> ToolContext:
        envelope = context.envelope
        return ToolContext(
            call_id=envelope.message_id,
            idempotency_key=context.idempotency_key,
            tenant=envelope.tenant,
            conversation_id=envelope.conversation_id or "",
            task_id=envelope.root_task_id or "",
            agent=event.agent,
            user=event.user,
            starts=starts,
            deadline_ms=envelope.deadline_ms,
            artifacts=ToolArtifacts(self._services.artifacts, envelope.tenant),
            clock=context.clock,
            on_progress=progress.tell if event.agent else None,
        )
