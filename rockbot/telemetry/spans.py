"""Spans of messages and of what is done for them. Imported where traces are switched on, and nowhere else.

A message's context is its own `traceparent`, not what happens to be current when it is published: a command that an outbox sends
again belongs to the step that made it. Around whatever is handled, OpenTelemetry's context says which span is the current one,
so that what others trace hangs under it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, final

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from rockbot.telemetry import semconv
from rockbot.telemetry.recording import CLIENT, CONSUMER, INTERNAL, NO_STATE, PRODUCER, Elsewhere, Recorder, Recording
from rockbot.telemetry.span_wire import attributes_of_a_span
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door, MessageHandler, MessagePublisher
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import Attributes, Span, SpanKind
from rockbot_messaging.verdicts import Ack, DeadLetter, Verdict

__all__ = ["OtelTracing"]

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_KINDS: Final[dict[SpanKind, int]] = {"internal": INTERNAL, "client": CLIENT}
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
#: What OpenTelemetry calls the current span in its contexts.
(_CURRENT,) = set_span_in_context(INVALID_SPAN, Context())


@final
class OtelTracing:
    """Implements `rockbot_messaging.tracing.Tracing`. Queues of ours begin with `namespace`."""

    def __init__(self, recorder: Recorder, *, namespace: str) -> None:
        self._recorder = recorder
        self._namespace = namespace

    def span(self, name: str, attributes: Attributes, /, *, kind: SpanKind = "internal") -> _Open:
        around = get_current_span()
        parent = around if type(around) is Recording else Elsewhere.of(around.get_span_context())
        return _Open(self._recorder.begin(name, _KINDS[kind], parent, attributes=dict(attributes)))

    def processing(self, subscription: WorkSubscription, handler: MessageHandler, /) -> MessageHandler:
        queue = f"{self._namespace}.{subscription.name}"
        name = f"process {queue}"
        begin = self._recorder.begin
        same = attributes_of_a_span(
            {
                semconv.MESSAGING_SYSTEM: semconv.RABBITMQ,
                semconv.MESSAGING_OPERATION_NAME: "process",
                semconv.MESSAGING_OPERATION_TYPE: "process",
                semconv.MESSAGING_DESTINATION_NAME: queue,
            }
        )

        async def handle(envelope: MessageEnvelope) -> Verdict:
            span = begin(name, CONSUMER, _read(envelope), attributes=_of(envelope), same=same, linked=True)
            token = attach(_within(span))
            try:
                verdict = await handler(_carrying(envelope, span))
                _settle(span, verdict)
                return verdict
            except BaseException as exc:
                span.failed(type(exc).__name__)
                raise
            finally:
                detach(token)
                span.end()

        return handle

    def publishing(self, publisher: MessagePublisher, /) -> MessagePublisher:
        return _TracedPublisher(publisher, self._recorder, self._namespace)

    def begun(self, traceparent: str | None, id: str, /) -> str | None:
        found = _parsed(traceparent)
        return traceparent if found is None else _written(found.trace, _span_id(id), found.sampled)

    def ended(
        self,
        id: str,
        name: str,
        attributes: Attributes,
        /,
        *,
        traceparent: str | None,
        began_ms: int,
        ended_ms: int,
        error_type: str = "",
    ) -> None:
        parent = _parsed(traceparent)
        if parent is None:
            return
        span = self._recorder.begin(
            name,
            INTERNAL,
            parent,
            attributes=dict(attributes),
            id=_span_id(id),
            began_ns=began_ms * 1_000_000,
        )
        if error_type:
            span.failed(error_type)
        # To the end of that millisecond: what happened in it lies inside.
        span.end(ended_ms * 1_000_000 + 999_999)


@final
class _TracedPublisher:
    """What is lossy (deltas, status) only carries its context on: a span for each piece of text says nothing."""

    def __init__(self, inner: MessagePublisher, recorder: Recorder, namespace: str) -> None:
        self._inner = inner
        self._recorder = recorder
        self._exchanges = {Door.PUBLIC: namespace, Door.COMMANDS: f"{namespace}.commands"}

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        if door is Door.LOSSY:
            await self._inner.publish(envelope, door=door)
            return
        span = self._begin(envelope, f"{self._exchanges[door]}:{envelope.topic}")
        try:
            await self._inner.publish(_carrying(envelope, span), door=door)
        except BaseException as exc:
            span.failed(type(exc).__name__)
            raise
        finally:
            span.end()

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        if door is Door.LOSSY:
            await self._inner.publish_many(envelopes, door=door)
            return
        spans = [self._begin(envelope, f"{self._exchanges[door]}:{envelope.topic}") for envelope in envelopes]
        sent = [_carrying(envelope, span) for envelope, span in zip(envelopes, spans, strict=True)]
        try:
            await self._inner.publish_many(sent, door=door)
        except BaseException as exc:  # which of them it was is not said
            for span in spans:
                span.failed(type(exc).__name__)
            raise
        finally:
            for span in spans:
                span.end()

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        span = self._begin(envelope, "(anonymous)")
        span.attributes[semconv.MESSAGING_DESTINATION_ANONYMOUS] = True
        try:
            await self._inner.send(_carrying(envelope, span), address=address)
        except BaseException as exc:
            span.failed(type(exc).__name__)
            raise
        finally:
            span.end()

    def _begin(self, envelope: MessageEnvelope, destination: str) -> Recording:
        name, same = _publishing(destination)
        return self._recorder.begin(name, PRODUCER, _read(envelope), attributes=_of(envelope), same=same)


@lru_cache(maxsize=1024)
def _publishing(destination: str) -> tuple[str, bytes]:
    """Name and attributes that all spans of a destination share."""
    said = {
        semconv.MESSAGING_SYSTEM: semconv.RABBITMQ,
        semconv.MESSAGING_OPERATION_NAME: "publish",
        semconv.MESSAGING_OPERATION_TYPE: "send",
        semconv.MESSAGING_DESTINATION_NAME: destination,
    }
    return f"publish {destination}", attributes_of_a_span(said)


@final
class _Open:
    """A span around what is done inside, and the current one there."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Recording) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = attach(_within(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        detach(self._token)
        if kind is not None:
            self._span.failed(kind.__name__)
        self._span.end()


def _settle(span: Recording, verdict: Verdict) -> None:
    """What the broker will be told, as an event of the span: a span of its own would double the number of spans."""
    outcome = "ack"
    if isinstance(verdict, DeadLetter):
        outcome = "dead_letter"
        span.failed(verdict.error_type or outcome)
    elif not isinstance(verdict, Ack):
        outcome = "retry" if verdict.counted else "handback"
        if verdict.counted:
            span.failed(verdict.error_type or outcome)
    span.add_event(semconv.SETTLE, {semconv.ROCKBOT_OUTCOME: outcome})


def _of(envelope: MessageEnvelope) -> dict[str, Any]:
    said = {
        semconv.MESSAGING_ROUTING_KEY: envelope.topic,
        semconv.MESSAGING_MESSAGE_ID: envelope.message_id,
    }
    if envelope.correlation_id:
        said[semconv.MESSAGING_CONVERSATION_ID] = envelope.correlation_id
    if envelope.conversation_id:
        said[semconv.GEN_AI_CONVERSATION_ID] = envelope.conversation_id
    return said


def _read(envelope: MessageEnvelope) -> Elsewhere | None:
    return _parsed(envelope.traceparent, envelope.tracestate)


def _parsed(traceparent: str | None, tracestate: str | None = None) -> Elsewhere | None:
    if not traceparent or (found := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    trace, span_id, flags = found.groups()
    if trace == _NO_TRACE or span_id == _NO_SPAN:
        return None
    state = TraceState.from_header([tracestate]) if tracestate else NO_STATE
    return Elsewhere(bytes.fromhex(trace), bytes.fromhex(span_id), bool(int(flags, 16) & TraceFlags.SAMPLED), state)


def _within(span: Recording) -> Context:
    return Context({_CURRENT: span})


def _carrying(envelope: MessageEnvelope, span: Recording) -> MessageEnvelope:
    return envelope.replace(traceparent=_written(span.trace, span.id, span.sampled))


def _written(trace: bytes, id: bytes, sampled: bool) -> str:
    return f"00-{trace.hex()}-{id.hex()}-{'01' if sampled else '00'}"


def _span_id(id: str) -> bytes:
    digest = hashlib.sha256(id.encode()).digest()[:8]
    return digest if any(digest) else b"\1" * 8
