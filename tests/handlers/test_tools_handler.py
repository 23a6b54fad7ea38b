"""Function tools at their worker: each call made once, bounded, refused where it must be, and answered in any case."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from rockbot.chain import Chain, Order
from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure, Unhandled
from rockbot.events import AgentStatus, FilePart, StepRefused, ToolInvoke, ToolResult, text_of
from rockbot.plugins import Services
from rockbot.policies import Approval, Policy, argument_hash
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.tools import ToolContext, ToolError, Toolset
from rockbot.tools.admission import Admission
from rockbot_handlers.tools.handler import ToolsHandler
from rockbot_messaging.artifacts import ArtifactsUnavailable
from rockbot_messaging.calls import CallBusy
from rockbot_messaging.envelope import MessageEnvelope

INVOKE = "tool.invoke.desk"
CALL = "11111111-1111-5111-8111-111111111111"


@pytest.fixture
def desk() -> Toolset:
    return Toolset("desk")


@pytest.fixture
def services(make_services: Callable[..., Services]) -> Services:
    return make_services()


@pytest.fixture
def call(
    desk: Toolset, services: Services, chain_of: Callable[..., Chain], make_context: Callable[..., Context]
) -> Callable[..., Any]:
    """Call a tool by message; returns its result, or None when it was not answered."""
    handlers: dict[int, ToolsHandler] = {}

    async def make(tool: str, *, given: dict[str, Any] | None = None, **options: Any) -> ToolResult | None:
        fields = {
            name: options.pop(name) for name in ("agent", "user", "policy", "origins", "approval") if name in options
        }
        event = ToolInvoke(tool=tool, arguments=given or {}, call_id="call-1", **fields)
        worker = options.pop("worker", services)
        handler = handlers.setdefault(id(worker), ToolsHandler({"desk": desk}, Admission(worker.policy_of), worker))
        context = make_context(event, options.pop("topic", INVOKE), **options)
        await chain_of(worker, links=((Order.WORK, "tools", handler),)).run(event, context)
        if not context.emissions:
            return None
        (emission,) = context.emissions
        return ToolResult.model_validate_json(emission.envelope.body)

    return make


def said(result: ToolResult | None) -> str:
    assert result is not None
    return text_of(result.parts)


async def test_a_call_is_answered_with_what_the_function_returned(desk: Toolset, call: Any) -> None:
    @desk.tool
    async def greet(name: str) -> str:
        """Greet."""
        return f"hello {name}"

    result = await call("greet", given={"name": "Zoë"})
    assert (result.call_id, result.tool, result.is_error, said(result)) == ("call-1", "greet", False, "hello Zoë")
    assert [part.origin for part in result.parts] == ["tool:greet"]


async def test_a_tool_knows_its_call(desk: Toolset, call: Any) -> None:
    seen: list[ToolContext] = []

    @desk.tool(origin="web")
    async def look(context: ToolContext) -> None:
        """Look."""
        seen.append(context)

    result = await call("look", agent="assistant", user="anna", seconds=30, tenant="acme")
    (context,) = seen
    assert (context.call_id, context.tenant, context.agent, context.user) == (CALL, "acme", "assistant", "anna")
    assert (context.conversation_id, context.task_id) == ("conversation-1", "task-1")
    assert (context.remaining, context.starts, context.cancelled) == (30, 1, False)
    assert [part.origin for part in result.parts] == ["web"]


async def test_the_idempotency_key_is_that_of_the_call_alone(desk: Toolset, call: Any) -> None:
    keys = []

    @desk.tool
    async def look(context: ToolContext) -> None:
        """Look."""
        keys.append(context.idempotency_key)
        raise TemporaryFailure("not yet")

    for message in ("one", "one", "two"):
        with pytest.raises(TemporaryFailure):
            await call("look", message_id=message)
    assert keys[0] == keys[1] != keys[2]


async def test_a_function_that_is_no_coroutine_runs_in_a_thread_of_its_own(desk: Toolset, call: Any) -> None:
    @desk.tool
    def where(context: ToolContext) -> str:
        """Where it runs."""
        assert not context.cancelled
        return threading.current_thread().name

    assert said(await call("where")) == "tool where"


async def test_a_finished_call_is_answered_again_and_not_made_again(desk: Toolset, call: Any) -> None:
    made = []

    @desk.tool
    async def pay() -> str:
        """Pay."""
        made.append(1)
        return f"paid {len(made)}"

    assert said(await call("pay")) == said(await call("pay")) == "paid 1"
    assert said(await call("pay", message_id="another")) == "paid 2"


async def test_a_call_that_is_being_made_is_handed_back(desk: Toolset, call: Any) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @desk.tool
    async def slow() -> str:
        """Wait."""
        begun.set()
        await go_on.wait()
        return "ok"

    first = asyncio.create_task(call("slow"))
    await begun.wait()
    with pytest.raises(CallBusy):
        await call("slow")
    go_on.set()
    assert said(await first) == "ok"


@pytest.mark.parametrize(
    ("flag", "told"), [({}, "is not known"), ({"idempotent": True}, "ok"), ({"read_only": True}, "ok")]
)
async def test_a_call_whose_end_is_unknown_is_repeated_only_where_that_is_harmless(
    desk: Toolset, call: Any, ledger: StateLedger, flag: dict[str, bool], told: str
) -> None:
    starts = []

    @desk.tool(**flag)  # type: ignore[call-overload, untyped-decorator, unused-ignore]
    async def send(context: ToolContext) -> str:
        """Send."""
        starts.append(context.starts)
        return "ok"

    await ledger.begin(CALL, tenant="default", owner="host-1", claim_seconds=5)  # and then that process died
    result = await call("send")
    assert told in said(result)
    assert starts == ([2] if flag else [])
    assert result.is_error is not bool(flag)
    assert said(await call("send")) == said(result)


async def test_what_a_tool_reports_is_an_answer_and_final(desk: Toolset, call: Any) -> None:
    made = []

    @desk.tool(idempotent=True)
    def book() -> None:
        """Book."""
        made.append(1)
        raise ToolError("there is no room on that day")

    for _ in range(2):
        result = await call("book")
        assert (said(result), result.is_error) == ("there is no room on that day", True)
    assert made == [1]


async def test_an_unexpected_error_is_retried_where_that_is_harmless(desk: Toolset, call: Any) -> None:
    made = []

    @desk.tool(read_only=True)
    async def fetch() -> str:
        """Fetch."""
        made.append(1)
        if len(made) < 3:
            raise ConnectionError("no route")
        return "fetched"

    for _ in range(2):
        with pytest.raises(ConnectionError, match="no route"):
            await call("fetch")
    assert said(await call("fetch")) == "fetched"


async def test_an_unexpected_error_elsewhere_leaves_the_outcome_unknown_and_is_told_without_internals(
    desk: Toolset, call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = []

    @desk.tool
    async def pay() -> str:
        """Pay."""
        made.append(1)
        raise KeyError("password=s3cret")

    result = await call("pay")
    assert result.is_error
    assert "pay failed unexpectedly (KeyError). Whether pay had its effect is not known" in said(result)
    assert "s3cret" not in said(result)
    assert said(await call("pay")) == said(result)
    assert made == [1]
    (record,) = [record for record in caplog.records if "failed unexpectedly" in record.message]
    assert record.exc_info


async def test_a_tool_may_ask_to_be_tried_again_because_nothing_was_done(desk: Toolset, call: Any) -> None:
    made = []

    @desk.tool
    async def pay() -> str:
        """Pay."""
        made.append(1)
        if len(made) == 1:
            raise TemporaryFailure("the bank is closed", after=60)
        return "paid"

    with pytest.raises(TemporaryFailure, match="closed"):
        await call("pay")
    assert said(await call("pay")) == "paid"


@pytest.mark.parametrize("threaded", [True, False])
async def test_a_tool_that_exits_takes_no_process_with_it(desk: Toolset, call: Any, threaded: bool) -> None:
    async def leave() -> None:
        """Leave."""
        sys.exit(3)

    def leave_too() -> None:
        """Leave."""
        sys.exit(3)

    desk.tool(name="leave")(leave_too if threaded else leave)
    assert "leave failed unexpectedly (RuntimeError)" in said(await call("leave"))


async def test_a_permanent_failure_of_a_tool_is_a_dead_letter(desk: Toolset, call: Any) -> None:
    @desk.tool(idempotent=True)
    async def pay() -> str:
        """Pay."""
        raise PermanentFailure("this account was closed")

    with pytest.raises(PermanentFailure, match="closed"):
        await call("pay")


@pytest.mark.parametrize(("flag", "told"), [(False, "; whether it had its effect is not known"), (True, "")])
async def test_a_tool_that_takes_too_long_is_stopped_and_the_model_told(
    desk: Toolset, call: Any, flag: bool, told: str
) -> None:
    stopped = []

    @desk.tool(idempotent=flag, timeout=0.02)
    async def slow(context: ToolContext) -> None:
        """Wait."""
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(context.cancelled)

    result = await call("slow")
    assert (said(result), result.is_error) == (f"slow did not end within 0.02 s and was stopped{told}", True)
    assert stopped == [True]


async def test_a_thread_that_takes_too_long_hears_of_it_and_keeps_its_slot(
    desk: Toolset, call: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rockbot.tools.calling.GRACE", 0.01)
    monkeypatch.setattr("rockbot.tools.slots.PATIENCE", 0.01)
    go_on, heard = threading.Event(), threading.Event()

    @desk.tool(timeout=0.02, max_concurrency=1)
    def stubborn(context: ToolContext) -> str:
        """Wait."""
        go_on.wait(60)
        try:
            context.raise_if_cancelled()
        except asyncio.CancelledError:
            heard.set()
            raise
        return "in time"

    assert "did not end within" in said(await call("stubborn"))
    assert "a tool goes on although its call is over" in caplog.text
    with pytest.raises(TemporaryFailure, match=r"as many calls of stubborn run as may \(1 at a time\)") as raised:
        await call("stubborn", message_id="second")
    assert raised.value.counted is False
    go_on.set()
    assert await asyncio.to_thread(heard.wait, 60)
    async with asyncio.timeout(60):
        # On a busy machine the next one may be too late, too; it has its slot all the same.
        while said(await _retried(call, "stubborn", uuid.uuid4().hex)) != "in time":
            pass


async def _retried(call: Any, tool: str, message_id: str) -> ToolResult:
    while True:
        try:
            result: ToolResult = await call(tool, message_id=message_id)
        except TemporaryFailure:
            continue
        return result


async def test_a_tool_that_ignores_being_stopped_holds_nobody_up(
    desk: Toolset, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rockbot.tools.calling.GRACE", 0.01)
    go_on = asyncio.Event()

    @desk.tool(timeout=0.01)
    async def deaf() -> None:
        """Wait."""
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    assert "did not end" in said(await call("deaf"))
    go_on.set()


async def test_no_more_calls_run_at_a_time_than_the_tool_allows(
    desk: Toolset, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rockbot.tools.slots.PATIENCE", 60)
    running, most = 0, 0

    @desk.tool(max_concurrency=2)
    async def narrow() -> str:
        """Count."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return "ok"

    results = await asyncio.gather(*(call("narrow", message_id=f"m{number}") for number in range(10)))
    assert [said(result) for result in results] == ["ok"] * 10
    assert most == 2


async def test_slots_across_replicas_are_shared_and_come_back_when_their_process_died(
    desk: Toolset, call: Any, make_services: Callable[..., Services], store: MemoryStateStore, clock: Any
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @desk.tool(max_concurrency=1, across_replicas=True)
    async def alone() -> str:
        """Wait."""
        begun.set()
        await go_on.wait()
        return "ok"

    here, there = (_owned(make_services(), owner) for owner in ("here", "there"))
    first = asyncio.create_task(call("alone", worker=here))
    await begun.wait()
    with pytest.raises(TemporaryFailure, match="1 at a time"):
        await call("alone", worker=there, message_id="second")
    clock.advance(20)  # nobody prolonged the lease, as if that process had died
    second = asyncio.create_task(call("alone", worker=there, message_id="second"))
    go_on.set()
    assert (said(await second), said(await first)) == ("ok", "ok")
    async with asyncio.timeout(60):
        assert said(await _retried(call, "alone", "third")) == "ok"


async def test_copies_of_a_running_call_leave_slots_as_they_are(
    desk: Toolset, call: Any, make_services: Callable[..., Services]
) -> None:
    go_on = asyncio.Event()
    begun: asyncio.Queue[str] = asyncio.Queue()

    @desk.tool(max_concurrency=2, across_replicas=True)
    async def pair(context: ToolContext) -> str:
        """Wait."""
        begun.put_nowait(context.call_id)
        await go_on.wait()
        return "ok"

    here, there, elsewhere = (_owned(make_services(), owner) for owner in ("here", "there", "elsewhere"))
    async with asyncio.timeout(60):
        first = asyncio.create_task(call("pair", worker=here, message_id="first"))
        await begun.get()
        for _ in range(10):
            with pytest.raises(CallBusy):
                await call("pair", worker=here, message_id="first")
            for _ in range(20):
                await asyncio.sleep(0)
        second = asyncio.create_task(call("pair", worker=there, message_id="second"))
        await begun.get()
        with pytest.raises(TemporaryFailure, match="2 at a time"):
            await call("pair", worker=elsewhere, message_id="third")
        go_on.set()
        assert [said(await each) for each in (first, second)] == ["ok", "ok"]


def _owned(services: Services, owner: str) -> Services:
    return dataclasses.replace(services, owner=owner)


async def test_a_call_under_a_cancelled_task_is_not_made_and_a_running_one_is_stopped(
    desk: Toolset, call: Any, services: Services, ledger: StateLedger
) -> None:
    begun, ended = asyncio.Event(), []

    @desk.tool
    async def slow(context: ToolContext) -> None:
        """Wait."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(context.cancelled)

    running = asyncio.create_task(call("slow"))
    await begun.wait()
    assert services.running.stop(["task-1"], tenant="default", reason="canceled") == 1
    assert await running is None
    assert ended == [True]
    await ledger.refuse("task-1", tenant="default", reason="canceled")
    assert await call("slow", message_id="second") is None
    assert ended == [True]


async def test_wrong_arguments_unknown_tools_and_calls_nobody_waits_for(desk: Toolset, call: Any) -> None:
    @desk.tool
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    result = await call("add", given={"a": "s3cret"})
    assert result.is_error
    assert "a: Input should be a valid integer; b: Field required (arguments: a, b)" in said(result)
    assert "s3cret" not in said(result)
    assert "there is no tool 'sub' here (there are: add)" in said(await call("sub"))
    with pytest.raises(PermanentFailure, match="without a return address"):
        await call("add", answer_to=None)
    with pytest.raises(Unhandled):
        await call("add", topic="tool.invoke.other")


async def test_policy_is_kept_where_the_tool_runs(
    desk: Toolset, call: Any, make_services: Callable[..., Services]
) -> None:
    made = []

    @desk.tool
    async def pay(amount: int) -> str:
        """Pay."""
        made.append(amount)
        return "paid"

    carried = Policy.model_validate(
        {"rules": [{"arguments": {"amount": {"gt": 100}}, "then": "deny", "reason": "too much"}]}
    )
    result = await call("pay", given={"amount": 101}, policy=carried)
    assert (said(result), result.is_error) == ("the tool was not called, policy denies it: too much", True)
    assert said(await call("pay", given={"amount": 100}, policy=carried)) == "paid"

    own = make_services(
        agents={"assistant": {"policy": {"rules": [{"tool": "p*", "when_tainted": "web", "then": "deny"}]}}}
    )
    tainted = {"agent": "assistant", "policy": carried, "origins": ("user", "web"), "worker": own}
    assert "policy denies it" in said(await call("pay", given={"amount": 1}, message_id="m2", **tainted))
    clean = {**tainted, "origins": ("user",)}
    assert said(await call("pay", given={"amount": 1}, message_id="m3", **clean)) == "paid"
    assert made == [100, 1]


async def test_what_needs_approval_runs_with_an_approval_of_exactly_its_arguments(desk: Toolset, call: Any) -> None:
    made = []

    @desk.tool(needs_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        made.append(amount)
        return "paid"

    approval = Approval(approval_id="a", argument_hash=argument_hash("pay", {"amount": 5}), by="anna")
    assert "needs a person's approval" in said(await call("pay", given={"amount": 5}))
    other = await call("pay", given={"amount": 6}, approval=approval)
    assert "its approval is for other arguments" in said(other)
    assert made == []
    assert said(await call("pay", given={"amount": 5}, approval=approval)) == "paid"
    denied = Policy.model_validate({"rules": [{"then": "deny"}]})
    assert "denies" in said(await call("pay", given={"amount": 5}, approval=approval, policy=denied, message_id="m2"))


async def test_a_turn_that_did_not_know_that_a_person_must_approve_is_told_to_ask(
    desk: Toolset, services: Services, make_context: Callable[..., Context], chain_of: Callable[..., Chain]
) -> None:
    @desk.tool(needs_approval=True)
    async def pay() -> None:
        """Pay."""

    event = ToolInvoke(tool="pay", agent="assistant", policy=Policy())
    context = make_context(event, INVOKE)
    handler = ToolsHandler({"desk": desk}, Admission(services.policy_of), services)
    await chain_of(services, links=((Order.WORK, "tools", handler),)).run(event, context)
    (emission,) = context.emissions
    refused = StepRefused.model_validate_json(emission.envelope.body)
    assert (refused.code, refused.message_id) == ("approval_required", CALL)
    assert refused.message == "it needs a person's approval: the tool itself asks for approval"


async def test_a_long_result_is_cut_and_can_be_read_whole_by_its_tenant(
    desk: Toolset, call: Any, services: Services
) -> None:
    @desk.tool(output_limit=500)
    async def dig() -> str:
        """Dig."""
        return "x" * 20_000

    result = await call("dig", tenant="acme")
    text, file = result.parts
    assert "[truncated, " in text.text
    assert len(text.text) <= 500
    assert isinstance(file, FilePart)
    assert await services.artifacts.get(file.uri.removeprefix("artifact:"), tenant="acme") == b"x" * 20_000


async def test_a_result_that_cannot_be_stored_is_no_end_of_the_call(
    desk: Toolset, call: Any, services: Services
) -> None:
    made = []

    class Full:
        async def put(self, body: bytes, *, tenant: str = "default") -> str:
            raise ArtifactsUnavailable("the disk is full")

        async def get(self, reference: str, *, tenant: str = "default") -> bytes:
            raise ArtifactsUnavailable("the disk is full")

    @desk.tool
    async def dig() -> bytes:
        """Dig."""
        made.append(1)
        return b"gold"

    broken = dataclasses.replace(services, artifacts=Full())
    with pytest.raises(ArtifactsUnavailable):
        await call("dig", worker=broken)
    assert "Whether dig had its effect is not known" in said(await call("dig"))
    assert made == [1]


async def test_a_result_that_is_no_json_is_said_to_be_so(desk: Toolset, call: Any) -> None:
    @desk.tool
    async def odd() -> object:
        """Odd."""
        return object()

    result = await call("odd")
    assert result.is_error
    assert "odd was carried out, but its result cannot be told" in said(result)


@pytest.mark.parametrize("threaded", [True, False])
async def test_watchers_hear_how_far_a_tool_is(desk: Toolset, call: Any, services: Services, threaded: bool) -> None:
    heard: list[AgentStatus] = []

    async def signal(envelope: MessageEnvelope) -> None:
        await asyncio.sleep(0)
        assert (envelope.topic, envelope.durable) == ("agent.status.assistant", False)
        heard.append(AgentStatus.model_validate_json(envelope.body))

    async def dig(context: ToolContext) -> None:
        """Dig."""
        dig_too(context)

    def dig_too(context: ToolContext) -> None:
        """Dig."""
        for number in range(1000):
            context.progress(f"{number} done", fraction=number / 1000)
        context.progress("all done", fraction=7)

    desk.tool(name="dig")(dig_too if threaded else dig)
    await call("dig", agent="assistant", worker=dataclasses.replace(services, signal=signal))
    last = heard[-1]
    assert (last.kind, last.tool, last.text, last.fraction) == ("tool_progress", "dig", "all done", 1.0)
    assert (last.task_id, last.conversation_id) == ("task-1", "conversation-1")
    assert threaded or len(heard) == 1, "what comes meanwhile is overtaken by the newest"


async def test_a_broker_that_is_away_does_not_hold_a_tool_up(desk: Toolset, call: Any, services: Services) -> None:
    async def signal(envelope: MessageEnvelope) -> None:
        raise ConnectionError("away")

    @desk.tool
    async def dig(context: ToolContext) -> str:
        """Dig."""
        context.progress("begun")
        return "dug"

    worker = dataclasses.replace(services, signal=signal)
    assert said(await call("dig", agent="assistant", worker=worker)) == "dug"


async def test_output_limit_and_max_threads_are_settings(
    desk: Toolset, call: Any, make_services: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rockbot.tools.slots.PATIENCE", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    @desk.tool
    def wait() -> str:
        """Wait."""
        begun.set()
        go_on.wait(60)
        return "x" * 1000

    worker = make_services(tools={"output_limit": 300, "max_threads": 1})
    first = asyncio.create_task(call("wait", worker=worker))
    assert await asyncio.to_thread(begun.wait, 60)
    with pytest.raises(TemporaryFailure, match="as many calls of wait run as may"):
        await call("wait", worker=worker, message_id="second")
    go_on.set()
    assert len(said(await first)) <= 300
