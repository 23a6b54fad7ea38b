"""From envelope to verdict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from core.desk import Desk
from core.links import Act, Link, Ping, Pong, envelope

from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.dispatcher import UPGRADE_WINDOW, Dispatcher
from rockbot.errors import ConfigError, NewerRelease, PermanentFailure, TemporaryFailure
from rockbot.events import Event, EventRegistry, LlmRequest, StepStalled, ToolInvoke, ToolResult
from rockbot.failures import FAILURES, describe_failures, verdict_of
from rockbot.handler import CallNext
from rockbot.outgoing import Outgoing
from rockbot.receiving import Receiving
from rockbot.state.ports import StateUnavailable, VersionConflict
from rockbot_messaging.envelope import SCHEMA_VERSION, MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import (
    BodyTooLarge,
    BrokerUnreachable,
    Closed,
    HeadersTooLarge,
    InvalidTopic,
    MessagingError,
    NotConfirmed,
    Unroutable,
)
from rockbot_messaging.ports import Door
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.retries import RetryPolicy, handback_wait
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

REGISTRY = EventRegistry([Ping, Pong, ToolInvoke, ToolResult, LlmRequest, StepStalled])
HOME = ReturnAddress("agent.step.assistant", "token")
WORK = WorkSubscription(name="work", patterns=("test.#",), retry=RetryPolicy(max_attempts=3), guard=None)


async def nothing(event: Event, context: Context, call_next: CallNext) -> None:
    pass


def raising(exc: BaseException) -> Act:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.pong")
        raise exc

    return act


class Bench:
    def __init__(
        self, act: Act = nothing, fails: Callable[[MessageEnvelope], Exception | None] = lambda _: None
    ) -> None:
        self.clock = FakeClock()
        self.desk = Desk(fails)
        self.dispatcher = Dispatcher(
            registry=REGISTRY,
            chain=Chain([(1, "work", Link(act))], REGISTRY),
            outgoing=Outgoing(self.desk, clock=self.clock, source="test"),
            clock=self.clock,
            source="test",
        )
        regulation = Regulation(clock=self.clock, publish=self.desk.publish, source="test")
        self.receiving = Receiving(self.dispatcher, regulation)
        self.work = self.receiving.handler(WORK)

    async def dispatch(self, body: bytes = b"{}", **fields: Any) -> Verdict:
        return await self.work(envelope(body, **fields))


# -- reading


@pytest.mark.parametrize(
    ("body", "fields", "reason"),
    [
        (b"{}", {"type": "who.knows"}, "no event is named 'who.knows' (topic 'test.ping')"),
        (b"{}", {"topic": "a.b"}, "the message names no type, and topic 'a.b' implies none"),
        (b"", {}, "the body is empty; test.ping needs a JSON object"),
        (b"\xff\xfe", {}, "the body is no test.ping: it is not UTF-8 (byte 0xff at position 0)"),
        (b'{"text": "h\xe9"}', {}, "the body is no test.ping: it is not UTF-8 (byte 0xe9 at position 11)"),
        (b"\x1f\x8b\x08\x00", {}, "the body is no test.ping: it is compressed (gzip); send it uncompressed"),
        (b"not json", {}, "the body is no test.ping: Invalid JSON"),
        (b"[]", {}, "the body is no test.ping: Input should be an object"),
        (b'{"text": 5}', {}, "the body is no test.ping: text: Input should be a valid string"),
        (b"[" * 5000, {}, "the body is no test.ping: Invalid JSON"),
    ],
)
async def test_what_cannot_be_read_is_a_dead_letter_that_says_why(
    body: bytes, fields: dict[str, Any], reason: str
) -> None:
    verdict = await Bench().dispatch(body, **fields)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason.startswith(reason)
    assert not verdict.traceback


async def test_this_schema_version_and_the_next_are_read() -> None:
    for version in (SCHEMA_VERSION, SCHEMA_VERSION + 1):
        assert await Bench().dispatch(schema_version=version) == Ack()


async def waited_for_an_upgrade(bench: Bench, **fields: Any) -> tuple[list[float], DeadLetter]:
    """Deliver a message until it is no longer handed back: the seconds of each wait, and its end."""
    waits: list[float] = []
    first_ms: int | None = None
    for handbacks in range(1000):
        verdict = await bench.dispatch(handbacks=handbacks, first_failed_ms=first_ms, attempt=2, **fields)
        if isinstance(verdict, DeadLetter):
            return waits, verdict
        assert isinstance(verdict, Retry)
        assert not verdict.counted
        wait = handback_wait(verdict.after, handbacks)
        waits.append(wait)
        first_ms = first_ms or bench.clock.now_ms()
        bench.clock.advance(wait)
    raise AssertionError("it is handed back for ever")


@pytest.mark.parametrize("timestamp_ms", [0, 2**45])
async def test_a_newer_schema_version_waits_for_the_upgrade_whatever_its_timestamp_says(timestamp_ms: int) -> None:
    bench = Bench()
    fields = {"body": b"unreadable", "schema_version": SCHEMA_VERSION + 2, "timestamp_ms": timestamp_ms}
    waits, end = await waited_for_an_upgrade(bench, **fields)
    # The first host that is new is soon tried; what must wait for it is not carried about every second.
    assert waits[:4] == [1, 5, 30, 30]
    assert UPGRADE_WINDOW <= sum(waits) < UPGRADE_WINDOW + 30
    assert end.reason == (
        "schema version 3 is newer than this release reads (2); no host could handle it for 15 minutes"
    )


async def test_hand_backs_for_other_reasons_leave_the_upgrade_its_time() -> None:
    bench = Bench()
    first_ms = bench.clock.now_ms() - 60_000
    verdict = await bench.dispatch(schema_version=SCHEMA_VERSION + 2, handbacks=500, first_failed_ms=first_ms)
    assert isinstance(verdict, Retry)
    assert not verdict.counted


async def test_what_a_newer_release_stored_waits_for_the_upgrade_too_and_then_tells_its_turn() -> None:
    bench = Bench(raising(NewerRelease("a record was written by a newer release")))
    waits, end = await waited_for_an_upgrade(bench, return_address=HOME)
    assert UPGRADE_WINDOW <= sum(waits) < UPGRADE_WINDOW + 30
    assert (end.error_type, end.reason.partition(";")[0]) == (
        "NewerRelease",
        "a record was written by a newer release",
    )
    assert len(bench.desk.published) == 1


# -- ids that nothing can be derived from


@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, {name: "a\ud800b"}) for name in ("message_id", "tenant", "conversation_id", "correlation_id", "reply_to")]
    + [
        ("return_address.topic", {"return_address": ReturnAddress("\udfff", "t")}),
        ("return_address.token", {"return_address": ReturnAddress("agent.step.a", "\ud800")}),
        ("conversation_id", {"conversation_id": "\ud800", "return_address": HOME}),
    ],
)
async def test_a_message_whose_ids_no_key_can_be_made_of_dies_at_once_and_says_which(
    name: str, fields: dict[str, Any]
) -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        raise AssertionError("it was handled")

    bench = Bench(act)
    verdict = await bench.dispatch(**fields)
    assert verdict == DeadLetter(
        reason=f"the {name} of this message is no text that UTF-8 can carry", error_type="PermanentFailure"
    )
    assert not bench.desk.published


# -- the table


def died(reason: str, error: str) -> DeadLetter:
    return DeadLetter(reason=reason, error_type=error, handler="work")


def again(reason: str, error: str, *bases: str, counted: bool = False, after: float | None = None) -> Retry:
    return Retry(after=after, reason=reason, counted=counted, error_type=error, error_bases=bases, handler="work")


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (PermanentFailure("never"), died("never", "PermanentFailure")),
        (ConfigError("wrong key"), died("wrong key", "ConfigError")),
        (TemporaryFailure("busy"), again("busy", "TemporaryFailure", "RockBotError", counted=True)),
        (
            TemporaryFailure("busy", after=7, counted=False),
            again("busy", "TemporaryFailure", "RockBotError", after=7),
        ),
        (VersionConflict("other"), again("other", "VersionConflict", "StateError")),
        (StateUnavailable("full"), again("full", "StateUnavailable", "StateError")),
        (
            BrokerUnreachable("away"),
            again("away", "BrokerUnreachable", "MessagingError", "ConnectionError", "OSError"),
        ),
        (NotConfirmed("nack"), again("nack", "NotConfirmed", "MessagingError")),
        (Closed("closing"), again("closing", "Closed", "MessagingError")),
    ],
)
async def test_failures_become_the_verdict_of_their_row(exc: Exception, expected: Verdict) -> None:
    bench = Bench(raising(exc))
    assert await bench.dispatch() == expected
    assert not bench.desk.published, "a chain that failed has sent nothing"


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (BodyTooLarge("20 MiB"), DeadLetter),
        (HeadersTooLarge("100 KiB"), DeadLetter),
        (InvalidTopic("a b"), DeadLetter),
        (Unroutable("a.b"), Retry),
        (TimeoutError("slow"), Retry),
        (ConnectionResetError("reset"), Retry),
        (KeyError("unforeseen"), Retry),
        (ExceptionGroup("several", [ValueError("x")]), Retry),
    ],
)
async def test_unforeseen_failures_keep_their_traceback(exc: Exception, kind: type[DeadLetter | Retry]) -> None:
    verdict = await Bench(raising(exc)).dispatch()
    assert isinstance(verdict, kind)
    assert verdict.error_type == type(exc).__name__
    assert "links.py" in verdict.traceback
    assert not isinstance(verdict, Retry) or verdict.counted


def test_every_error_of_messaging_has_a_row_of_its_own_or_is_known_not_to() -> None:
    rows = {error for rule in FAILURES[:-1] for error in rule.errors}
    left = {cls.__name__ for cls in MessagingError.__subclasses__() if not any(issubclass(cls, row) for row in rows)}
    assert left <= {
        "CallRefused",
        "LetterNotFound",
        "LettersBusy",
        "ManagementRefused",
        "ProviderMissing",
        "TopologyMismatch",
        "Undecodable",
    }


async def test_a_verdict_names_the_link_that_failed_and_no_other() -> None:
    async def passes_on(event: Event, context: Context, call_next: CallNext) -> None:
        await call_next(event, context)

    async def translates(event: Event, context: Context, call_next: CallNext) -> None:
        try:
            await call_next(event, context)
        except KeyError as exc:
            raise TemporaryFailure("later") from exc

    async def emits(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.pong")

    def handled_by(*links: tuple[str, Act]) -> Dispatcher:
        chain = Chain([(at, name, Link(act)) for at, (name, act) in enumerate(links)], REGISTRY)
        clock = FakeClock()
        outgoing = Outgoing(Desk(lambda _: Unroutable("gone")), clock=clock, source="test")
        return Dispatcher(registry=REGISTRY, chain=chain, outgoing=outgoing, clock=clock, source="test")

    for links, name in (
        ([("outer", passes_on), ("inner", raising(KeyError("x")))], "inner"),
        ([("outer", raising(KeyError("x"))), ("inner", nothing)], "outer"),
        ([("outer", passes_on), ("middle", translates), ("inner", raising(KeyError("x")))], "middle"),
        ([("outer", passes_on), ("inner", passes_on)], ""),  # nobody took it
        ([("outer", emits)], ""),  # sending failed
    ):
        verdict = await handled_by(*links).dispatch(envelope())
        assert not isinstance(verdict, Ack)
        assert verdict.handler == name
    verdict = await handled_by(("outer", nothing)).dispatch(envelope(b"unreadable"))
    assert isinstance(verdict, DeadLetter)
    assert verdict.handler == ""


def test_the_table_can_be_printed() -> None:
    rows = describe_failures()
    assert len(rows) == len(FAILURES)
    assert rows[0] == ("InvalidEvent, UnknownType, Unhandled", "dead letter at once")
    assert rows[-1][0] == "Exception"


def test_a_reason_is_one_line_that_every_header_can_carry() -> None:
    verdict = verdict_of(PermanentFailure("a\n\tb \ud800" + "x" * 100_000))
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason.startswith("a b \\ud800x")
    assert len(verdict.reason) <= 2010
    assert verdict.reason.encode()
    assert verdict_of(PermanentFailure("")) == DeadLetter(reason="PermanentFailure", error_type="PermanentFailure")


async def test_a_validation_error_in_a_handler_quotes_no_values(caplog: pytest.LogCaptureFixture) -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        Ping.model_validate({"text": ["the secret of the body"]})

    with caplog.at_level(logging.INFO):
        verdict = await Bench(act).dispatch()
    assert isinstance(verdict, Retry)
    assert verdict.reason == "text: Input should be a valid string"
    assert "the secret" not in str([record.__dict__ for record in caplog.records])


# -- sending


async def test_emissions_are_published_before_the_verdict_and_then_acted_upon() -> None:
    order: list[str] = []

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.pong")
        context.emit(Ping(), topic="test.ping")

        async def after() -> None:
            order.extend(["after", *bench.desk.topics])

        context.after_publish.append(after)

    bench = Bench(act)
    assert await bench.dispatch() == Ack()
    assert order == ["after", "test.pong", "test.ping"]
    assert [door for door, _ in bench.desk.published] == [Door.PUBLIC, Door.COMMANDS]


@pytest.mark.parametrize(
    ("problem", "counted"), [(BrokerUnreachable("away"), False), (NotConfirmed("nack"), False), (Unroutable("x"), True)]
)
async def test_what_cannot_be_published_comes_again(problem: Exception, counted: bool) -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.one")
        context.emit(Pong(), topic="test.two")

        async def after() -> None:
            raise AssertionError("not everything was published")

        context.after_publish.append(after)

    bench = Bench(act, lambda sent: problem if sent.topic == "test.one" else None)
    verdict = await bench.dispatch()
    assert isinstance(verdict, Retry)
    assert verdict.counted is counted
    assert bench.desk.topics == ["test.two"], "the others were not tried"


async def test_a_tool_that_nobody_offers_is_answered_as_a_tool_error() -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        invoke = ToolInvoke(tool="fly", call_id="t0")
        context.emit(invoke, topic="tool.invoke.desk", return_address=HOME, deadline_ms=1)

    bench = Bench(act, lambda sent: Unroutable(sent.topic) if sent.topic.startswith("tool.") else None)
    assert await bench.dispatch() == Ack()
    ((door, answer),) = bench.desk.published
    assert (door, answer.topic, answer.return_address) == (Door.COMMANDS, HOME.topic, HOME)
    assert answer.deadline_ms is None, "an answer is welcome late"
    result = ToolResult.model_validate_json(answer.body)
    assert result.is_error
    assert (result.tool, result.call_id) == ("fly", "t0")
    first = answer.message_id
    await bench.dispatch()
    assert bench.desk.ids == [first, first]


async def test_a_tool_call_without_a_return_address_is_a_retry_like_any_other() -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(ToolInvoke(tool="fly"), topic="tool.invoke.desk")

    verdict = await Bench(act, lambda sent: Unroutable(sent.topic)).dispatch()
    assert isinstance(verdict, Retry)
    assert verdict.counted


@pytest.mark.parametrize(
    ("problem", "level"), [(Unroutable("test.pong"), logging.WARNING), (BrokerUnreachable("away"), logging.INFO)]
)
async def test_a_message_that_was_handled_and_comes_again_says_why(
    problem: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def tells(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.pong")

    with caplog.at_level(logging.INFO):
        assert isinstance(await Bench(tells, lambda _: problem).dispatch(), Retry)
    (record,) = [record for record in caplog.records if record.name == "rockbot.dispatcher"]
    assert (record.levelno, record.message) == (level, "what a message emitted could not be sent")
    assert record.__dict__["error"].startswith(f"{type(problem).__name__}: {problem}")


async def test_a_vanished_reply_queue_never_fails_the_turn(caplog: pytest.LogCaptureFixture) -> None:
    from rockbot.context import Emission

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        made = context.make(Pong(), topic="agent.response.x")
        context.send_again(Emission(made, Door.PUBLIC, address="amq.gen-1"))

    with caplog.at_level(logging.WARNING):
        assert await Bench(act, lambda sent: Unroutable(sent.topic)).dispatch() == Ack()
    assert "reply queue is gone" in caplog.text


async def test_an_answer_goes_to_the_return_address_with_its_token_and_without_deadline() -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.answer(Pong(text="done"))

    bench = Bench(act)
    assert await bench.dispatch(return_address=HOME, deadline_ms=5) == Ack()
    ((door, answer),) = bench.desk.published
    assert (door, answer.topic, answer.return_address, answer.deadline_ms) == (Door.COMMANDS, HOME.topic, HOME, None)
    verdict = await bench.dispatch()
    assert isinstance(verdict, DeadLetter)


# -- telling the turn


async def test_a_step_that_dies_tells_its_turn_before_the_letter_is_written() -> None:
    bench = Bench(raising(PermanentFailure("no such model")))
    verdict = await bench.dispatch(return_address=HOME, tenant="acme", conversation_id="v", deadline_ms=3)
    assert isinstance(verdict, DeadLetter)
    ((door, notice),) = bench.desk.published
    stalled = StepStalled.model_validate_json(notice.body)
    assert (stalled.message_id, stalled.queue, stalled.reason) == ("m1", "work", "no such model")
    assert (door, notice.topic, notice.return_address) == (Door.COMMANDS, HOME.topic, HOME)
    assert (notice.tenant, notice.conversation_id, notice.deadline_ms) == ("acme", "v", None)


async def test_only_the_last_attempt_tells_the_turn() -> None:
    bench = Bench(raising(KeyError("x")))
    for attempt, notices in ((1, 0), (2, 0), (3, 1)):
        await bench.dispatch(return_address=HOME, attempt=attempt)
        assert len(bench.desk.published) == notices
    assert b"gave up after 3 attempts" in bench.desk.published[0][1].body


async def test_a_step_that_dies_again_after_a_replay_tells_again() -> None:
    bench = Bench(raising(PermanentFailure("x")))
    await bench.dispatch(return_address=HOME)
    bench.clock.advance(60)
    await bench.dispatch(return_address=HOME)
    assert len(set(bench.desk.ids)) == 2


async def test_a_step_whose_turn_cannot_be_told_is_handed_back() -> None:
    bench = Bench(raising(PermanentFailure("x")), lambda _: BrokerUnreachable("away"))
    verdict = await bench.dispatch(return_address=HOME)
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert "could not be told: x" in verdict.reason


@pytest.mark.parametrize("problem", [Unroutable("gone"), InvalidTopic("a b")])
async def test_a_step_whose_turn_nobody_drives_is_a_dead_letter_all_the_same(problem: Exception) -> None:
    verdict = await Bench(raising(PermanentFailure("x")), lambda _: problem).dispatch(return_address=HOME)
    assert isinstance(verdict, DeadLetter)


async def test_a_notice_that_dies_tells_nobody_or_it_would_tell_itself_for_ever() -> None:
    bench = Bench(raising(PermanentFailure("the token is not one of ours")))
    event = StepStalled(message_id="x", queue="q", reason="r")
    verdict = await bench.dispatch(event.to_body(), type=event.type_name, return_address=HOME)
    assert isinstance(verdict, DeadLetter)
    assert not bench.desk.published


async def test_a_message_without_a_return_address_and_a_watchers_message_tell_nobody() -> None:
    bench = Bench(raising(PermanentFailure("x")))
    await bench.dispatch()
    handler = bench.receiving.handler(WatchSubscription(name="status"))
    assert isinstance(await handler(envelope(return_address=HOME)), DeadLetter)
    assert not bench.desk.published


async def test_an_unreadable_command_tells_its_turn_too() -> None:
    bench = Bench()
    assert isinstance(await bench.dispatch(b"", return_address=HOME), DeadLetter)
    assert len(bench.desk.published) == 1


async def test_the_handler_of_a_work_subscription_uses_its_policy() -> None:
    bench = Bench(raising(KeyError("x")))
    once = WorkSubscription(name="once", patterns=("test.ping",), retry=RetryPolicy(max_attempts=1))
    await bench.receiving.handler(once)(envelope(return_address=HOME))
    assert len(bench.desk.published) == 1


# -- cancellation


async def test_cancellation_passes_through() -> None:
    started = asyncio.Event()

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        started.set()
        await asyncio.Event().wait()

    bench = Bench(act)
    running = asyncio.create_task(bench.dispatch(return_address=HOME))
    async with asyncio.timeout(60):
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not bench.desk.published


async def test_cancellation_while_publishing_passes_through() -> None:
    started = asyncio.Event()

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        context.emit(Pong(), topic="test.one")
        context.emit(Pong(), topic="test.two")

    class Slow(Desk):
        async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
            started.set()
            await asyncio.Event().wait()

    clock = FakeClock()
    outgoing = Outgoing(Slow(), clock=clock, source="test")
    chain = Chain([(1, "work", Link(act))], REGISTRY)
    dispatcher = Dispatcher(registry=REGISTRY, chain=chain, outgoing=outgoing, clock=clock, source="test")
    running = asyncio.create_task(dispatcher.dispatch(envelope()))
    async with asyncio.timeout(60):
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
