"""The toolset `scripts`: turns tool calls into script runs, and their results into tool results.

It keeps nothing between the two: where the tool's answer must go travels in the token that the script service copies, so
any replica can take the result. The run itself is written down by the script service; what happens here may be repeated.
"""

from __future__ import annotations

from typing import Final, final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot import topics
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import Event, StepExpired, StepStalled, TextPart, ToolInvoke, ToolResult
from rockbot.handler import CallNext
from rockbot.telemetry import semconv
from rockbot.tools.admission import Admission
from rockbot.tools.content import fitted
from rockbot_handlers.scripts.events import ScriptInvoke, ScriptResult
from rockbot_handlers.scripts.rendering import render
from rockbot_handlers.scripts.specs import LANGUAGE_OF, MAX_CHARS, TIMEOUT_SECONDS, TOOLS, TOOLSET, check_arguments
from rockbot_messaging.artifacts import ArtifactStore
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.topics import check_topic
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["RESULT_TOPIC", "ScriptsHandler"]

#: Where the script service's answers come back.
RESULT_TOPIC: Final = topics.toolset_result(TOOLSET)


@final
class _Token(BaseModel):
    """What the script service carries back: the tool call and who waits for its result; since when, and its trace context."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: str
    token: str
    call_id: str
    tool: str
    began_ms: int = 0
    id: str = ""
    traceparent: str | None = None


@final
class ScriptsHandler:
    """Takes what comes by its own topics and passes the rest on."""

    def __init__(
        self,
        admission: Admission,
        artifacts: ArtifactStore,
        measures: Measures = NO_MEASURES,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._admission = admission
        self._artifacts = artifacts
        self._measures = measures
        self._tracing = tracing

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (ToolInvoke, ScriptResult, StepStalled, StepExpired)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        topic = context.envelope.topic
        if isinstance(event, ToolInvoke) and topic == topics.tool_invoke(TOOLSET):
            self._invoke(event, context)
        elif isinstance(event, ScriptResult):
            text = render(event)
            await self._answer(context, text, is_error=event.status != "ok")
        elif isinstance(event, StepExpired) and topic == RESULT_TOPIC:
            await self._answer(context, f"the script was not run within {TIMEOUT_SECONDS:g} s", is_error=True)
        elif isinstance(event, StepStalled) and topic == RESULT_TOPIC:
            # The run lies in a dead-letter queue and can still be sent on, so it is the turn that has to know.
            self._forward(event, context, _token_of(context))
        else:
            await call_next(event, context)

    def _invoke(self, event: ToolInvoke, context: Context) -> None:
        address = context.envelope.return_address
        if address is None:
            raise PermanentFailure(f"a call of {event.tool!r} without a return address cannot be answered")
        spec = next((tool for tool in TOOLS if tool.name == event.tool), None)
        if spec is None:
            known = ", ".join(LANGUAGE_OF)
            context.answer(ToolResult.failure(event, f"there is no tool {event.tool!r} here (there are: {known})"))
            return
        if (refusal := self._admission.refusal(event, spec, message_id=context.envelope.message_id)) is not None:
            context.answer(refusal)
            return
        try:
            arguments = check_arguments(event.arguments)
        except ValueError as exc:
            context.answer(ToolResult.failure(event, str(exc)))
            return
        language = LANGUAGE_OF[spec.name]
        envelope = context.envelope
        token = _Token(
            topic=address.topic,
            token=address.token,
            call_id=event.call_id,
            tool=event.tool,
            began_ms=context.clock.now_ms(),
            id=envelope.message_id,
            traceparent=envelope.traceparent,
        )
        context.traceparent = self._tracing.begun(envelope.traceparent, f"tool:{envelope.message_id}")
        own = context.clock.now_ms() + round(TIMEOUT_SECONDS * 1000)
        given = context.envelope.deadline_ms
        context.emit(
            ScriptInvoke(language=language, code=arguments.code, input=arguments.input),
            topic=topics.script_invoke(language),
            name="script",
            return_address=ReturnAddress(RESULT_TOPIC, token.model_dump_json()),
            deadline_ms=own if given is None else min(own, given),
        )

    async def _answer(self, context: Context, text: str, *, is_error: bool) -> None:
        token = _token_of(context)
        self._tell(token, context, is_error=is_error)
        parts = await fitted(
            (TextPart(text=text),),
            MAX_CHARS,
            self._artifacts,
            origin=f"tool:{token.tool}",
            tenant=context.envelope.tenant,
        )
        self._forward(
            ToolResult(call_id=token.call_id, tool=token.tool, parts=parts, is_error=is_error), context, token
        )

    def _tell(self, token: _Token, context: Context, *, is_error: bool) -> None:
        """Count and trace the call: it went on over two messages, so it is told when it is over."""
        now_ms = context.clock.now_ms()
        began_ms = token.began_ms or now_ms
        self._measures.count(Names.TOOL_CALLS, 1, tool=token.tool, outcome="error" if is_error else "ok")
        self._measures.observe(Names.TOOL_DURATION, max(0, now_ms - began_ms) / 1000, tool=token.tool)
        self._tracing.ended(
            f"tool:{token.id}",
            f"{semconv.EXECUTE_TOOL} {token.tool}",
            {
                semconv.GEN_AI_OPERATION_NAME: semconv.EXECUTE_TOOL,
                semconv.GEN_AI_TOOL_NAME: token.tool,
                semconv.GEN_AI_TOOL_CALL_ID: token.call_id,
                semconv.GEN_AI_TOOL_TYPE: "function",
            },
            traceparent=token.traceparent,
            began_ms=began_ms,
            ended_ms=now_ms,
            error_type="tool_error" if is_error else "",
        )

    def _forward(self, event: Event, context: Context, token: _Token) -> None:
        address = ReturnAddress(token.topic, token.token)
        context.emit(event, topic=token.topic, name="answer", return_address=address)


def _token_of(context: Context) -> _Token:
    address = context.envelope.return_address
    if address is None:
        raise PermanentFailure("a script result without a return token belongs to no tool call")
    try:
        token = _Token.model_validate_json(address.token)
        check_topic(token.topic)
    except (ValidationError, InvalidTopic):
        raise PermanentFailure("the return token of this script result is not one of this toolset's") from None
    return token
