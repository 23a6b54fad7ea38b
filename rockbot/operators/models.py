"""What an operator is told, the same over every way in: the gateway sends these models, ``--json`` prints them."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.letters import Letter
from rockbot_messaging.retries import span
from rockbot_messaging.subscriptions import Lane, Ordered, OutageGuard, Rate, Subscription, WorkSubscription

__all__ = [
    "BodyEncoding",
    "ChainEntry",
    "Check",
    "CheckStatus",
    "Diagnosis",
    "FailureEntry",
    "LetterDetail",
    "LetterSummary",
    "Pipeline",
    "PublishedMessage",
    "ReplyPiece",
    "SubscriptionInfo",
    "body_bytes",
    "body_text",
]

BodyEncoding = Literal["utf-8", "base64"]
CheckStatus = Literal["ok", "warn", "fail"]


def body_text(body: bytes) -> tuple[str, BodyEncoding]:
    """A body as text, and how it was made: as it is when it is UTF-8, else base64."""
    try:
        return body.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"


def body_bytes(text: str, encoding: BodyEncoding) -> bytes:
    """The reverse of `body_text`.

    Raises:
        ValueError: it is not base64.
    """
    return text.encode() if encoding == "utf-8" else base64.b64decode(text, validate=True)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReplyPiece(_Told):
    """What a model has said since the last piece of this reply (`call_id`), while it says it.

    `reset` says that what came before of it does not count any more, `done` that the reply is complete.
    """

    task_id: str
    call_id: str
    text: str = ""
    reset: bool = False
    done: bool = False


class PublishedMessage(_Told):
    """A message that at least one queue has stored."""

    message_id: str
    topic: str
    correlation_id: str | None = None
    conversation_id: str | None = None

    @classmethod
    def of(cls, envelope: MessageEnvelope) -> PublishedMessage:
        """The message without its body."""
        return cls(
            message_id=envelope.message_id,
            topic=envelope.topic,
            correlation_id=envelope.correlation_id,
            conversation_id=envelope.conversation_id,
        )


class LetterSummary(_Told):
    """One dead letter in a list. `queue` is what commands take; `at_ms` the instant of death (epoch milliseconds)."""

    id: str
    queue: str
    topic: str
    type: str
    reason: str
    error_type: str
    at_ms: int
    attempt: int
    body_size: int

    @property
    def replay_command(self) -> str:
        """The command that sends it on as it is."""
        return f"rockbot dlq replay {shlex.quote(self.queue)} {shlex.quote(self.id)}"

    @classmethod
    def of(cls, letter: Letter, queue: str) -> LetterSummary:
        """The letter without its body, under the name of the queue that was asked for."""
        return cls(**_summary(letter, queue))


class LetterDetail(LetterSummary):
    """One dead letter whole. `origin` is the work queue it came from (empty: nobody received its topic)."""

    origin: str
    history: tuple[str, ...] = ()
    traceback: str = ""
    broker: str = ""
    problem: str = ""
    source: str = ""
    tenant: str = ""
    content_type: str = ""
    published_ms: int = 0
    foreign_id: str | None = None
    correlation_id: str | None = None
    conversation_id: str | None = None
    root_task_id: str | None = None
    causation_id: str | None = None
    reply_to: str | None = None
    deadline_ms: int | None = None
    headers: dict[str, HeaderValue] = {}
    body: str = ""
    body_encoding: BodyEncoding = "utf-8"

    @property
    def body_bytes(self) -> bytes:
        """The body as it was published."""
        return body_bytes(self.body, self.body_encoding)

    @classmethod
    def of(cls, letter: Letter, queue: str) -> LetterDetail:
        """The letter whole, under the name of the queue that was asked for."""
        envelope, failure = letter.envelope, letter.failure
        text, encoding = body_text(envelope.body)
        return cls(
            **_summary(letter, queue),
            origin=failure.queue,
            history=failure.history,
            traceback=failure.traceback,
            broker=failure.broker,
            problem=letter.problem,
            source=envelope.source,
            tenant=envelope.tenant,
            content_type=envelope.content_type,
            published_ms=envelope.timestamp_ms,
            foreign_id=envelope.foreign_id,
            correlation_id=envelope.correlation_id,
            conversation_id=envelope.conversation_id,
            root_task_id=envelope.root_task_id,
            causation_id=envelope.causation_id,
            reply_to=envelope.reply_to,
            deadline_ms=envelope.deadline_ms,
            headers=dict(envelope.headers),
            body=text,
            body_encoding=encoding,
        )


def _summary(letter: Letter, queue: str) -> dict[str, object]:
    envelope, failure = letter.envelope, letter.failure
    return {
        "id": letter.id,
        "queue": queue,
        "topic": failure.topic or envelope.topic,
        "type": envelope.type,
        "reason": failure.reason,
        "error_type": failure.error_type,
        "at_ms": failure.at_ms,
        "attempt": failure.attempt,
        "body_size": len(envelope.body),
    }


class ChainEntry(_Told):
    """The links that see one event type, outermost first."""

    event: str
    links: tuple[str, ...]


class FailureEntry(_Told):
    """A row of the failure table: on any of these errors, that outcome."""

    errors: str
    outcome: str


class SubscriptionInfo(_Told):
    """What a host receives, or (`consumed` false) what it sends to and somebody else consumes.

    `retry` is the retry policy in a line, `retry_table` its lines in full. `order`, `lane`, `rate` and `guard` are told in
    words, empty where there is none; `remember` is for how long (seconds) handled messages are remembered.
    """

    name: str
    kind: Literal["work", "watch"]
    consumed: bool
    patterns: tuple[str, ...]
    prefetch: int
    concurrency: int | None = None
    retry: str = ""
    retry_table: tuple[str, ...] = ()
    dead_letters: str = ""
    order: str = ""
    lane: str = ""
    rate: str = ""
    guard: str = ""
    remember: float | None = None

    @classmethod
    def of(cls, subscription: Subscription, *, consumed: bool, namespace: str) -> SubscriptionInfo:
        """The same, for operators."""
        if isinstance(subscription, WorkSubscription):
            return cls(
                name=subscription.name,
                kind="work",
                consumed=consumed,
                patterns=subscription.patterns,
                prefetch=subscription.prefetch,
                concurrency=subscription.parallelism,
                retry=subscription.retry.summary(),
                retry_table=tuple(subscription.retry.describe().splitlines()),
                dead_letters=f"{namespace}.{subscription.name}.dlq",
                order=_order(subscription.ordered),
                lane=_lane(subscription.lane),
                rate=_rate(subscription.rate),
                guard=_guard(subscription.guard),
                remember=subscription.remember,
            )
        return cls(
            name=subscription.name,
            kind="watch",
            consumed=consumed,
            patterns=subscription.patterns,
            prefetch=subscription.prefetch,
        )


def _order(ordered: Ordered | None) -> str:
    if ordered is None:
        return ""
    dead = "holds up its key" if ordered.on_dead == "block" else "is skipped"
    return f"by {ordered.by}; a dead letter {dead}"


def _lane(lane: Lane | None) -> str:
    if lane is None:
        return ""
    return f"rank {lane.rank} of {lane.group}, {lane.slots} slots together, a rank up every {span(lane.ageing)}"


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.per_second:g} a second, {rate.burst} at once"


def _guard(guard: OutageGuard | None) -> str:
    if guard is None:
        return ""
    return f"after {guard.failures} failures in a row probes every {span(guard.probe)}, later {span(guard.longest)}"


class Pipeline(_Told):
    """How a host handles messages: what it receives, in which order links see it, what failures lead to."""

    subscriptions: tuple[SubscriptionInfo, ...]
    chain: tuple[ChainEntry, ...]
    failures: tuple[FailureEntry, ...]
    #: What a delivery meets before its first link, in that order.
    layers: tuple[str, ...] = ()

    @classmethod
    def describe(
        cls,
        *,
        chain: Iterable[tuple[str, list[str]]],
        failures: Iterable[tuple[str, str]],
        subscriptions: Sequence[Subscription],
        addressed: Sequence[WorkSubscription] = (),
        namespace: str = "rockbot",
        layers: Iterable[str] = (),
    ) -> Pipeline:
        """From `Chain.describe`, `describe_failures` and the subscriptions of a host."""
        consumed = {item.name for item in subscriptions}
        others = {item.name: item for item in addressed if item.name not in consumed}
        return cls(
            subscriptions=(
                *(SubscriptionInfo.of(item, consumed=True, namespace=namespace) for item in subscriptions),
                *(SubscriptionInfo.of(item, consumed=False, namespace=namespace) for item in others.values()),
            ),
            chain=tuple(ChainEntry(event=event, links=tuple(links)) for event, links in chain),
            failures=tuple(FailureEntry(errors=errors, outcome=outcome) for errors, outcome in failures),
            layers=tuple(layers),
        )


class Check(_Told):
    """One thing `doctor` looked at; `advice` says what to do when it is not ok."""

    name: str
    status: CheckStatus
    detail: str
    advice: str = ""


class Diagnosis(_Told):
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def worst(self) -> CheckStatus:
        """The worst status among them."""
        statuses = {check.status for check in self.checks}
        return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"
