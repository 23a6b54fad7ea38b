"""The service on the in-memory bus: what it answers, what it refuses, and that nothing finished is run twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.identity import derive_id
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry
from rockbot_scripts.contract import ScriptInvoke, ScriptResult
from rockbot_scripts.service import ScriptService
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm.pool import WasmPool

pytestmark = pytest.mark.sandbox

ADDRESS = ReturnAddress("tool.result.test", "opaque \N{SNOWMAN} token")


class Bench:
    """A service on a bus of its own, with a recorder where the results go."""

    def __init__(self, call_log: Path) -> None:
        self.clock = SystemClock()
        self.bus = MemoryBus(clock=self.clock)
        self.store = MemoryStateStore(self.clock)
        self.ledger = StateLedger(self.store)
        self.results = Recorder()
        self.call_log = call_log
        settings = ScriptSettings(workers=1, call_log=call_log, default_wall_seconds=3600, max_wall_seconds=3600)
        self.service = ScriptService(
            WasmPool(settings),
            bus=self.bus,
            ledger=self.ledger,
            clock=self.clock,
            settings=settings,
            owner="me",
            source="it",
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        await self.store.open()
        await self.bus.open()
        await self.bus.subscriber.subscribe(WorkSubscription(name="results", patterns=(ADDRESS.topic,)), self.results)
        await self.service.start()
        try:
            yield self
        finally:
            await self.service.stop(timeout=5)
            await self.bus.close()
            await self.store.close()

    def calls(self) -> list[dict[str, str]]:
        if not self.call_log.exists():
            return []
        return [json.loads(line) for line in self.call_log.read_text().splitlines()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(tmp_path / "calls.jsonl").running() as bench:
        yield bench


def _request(
    message_id: str, body: Mapping[str, Any] | bytes, *, runtime: str = "python", **changes: Any
) -> MessageEnvelope:
    return MessageEnvelope(
        topic=f"script.invoke.{runtime}",
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        message_id=message_id,
        type=ScriptInvoke.type_name,
        **{"return_address": ADDRESS, "root_task_id": "root", **changes},
    )


async def test_a_script_is_run_and_its_result_sent_to_the_return_address(bench: Bench) -> None:
    await bench.bus.publisher.publish(_request("a", {"code": "6 * 7"}, correlation_id="c", tenant="t"))
    await bench.bus.publisher.publish(_request("b", {"code": "6 * 8", "language": "javascript"}, runtime="javascript"))
    envelopes = await bench.results.wait_for(2)
    by_cause = {envelope.causation_id: envelope for envelope in envelopes}
    answer = by_cause["a"]
    result = ScriptResult.model_validate_json(answer.body)
    assert (result.status, result.value) == ("ok", "42")
    assert answer.return_address == ADDRESS
    assert (answer.type, answer.message_id) == (ScriptResult.type_name, derive_id("a", "answer", tenant="t"))
    assert (answer.correlation_id, answer.tenant, answer.root_task_id) == ("c", "t", "root")
    assert ScriptResult.model_validate_json(by_cause["b"].body).value == "48"
    assert sorted(bench.calls(), key=str) == [
        {"call_id": "a", "language": "python"},
        {"call_id": "b", "language": "javascript"},
    ]


async def test_a_finished_script_is_answered_from_the_ledger_and_never_run_twice(bench: Bench) -> None:
    request = _request("a", {"code": "import random; random.random()"})
    for _ in range(2):
        assert await bench.service.handle(request) == Ack()
    first, second = await bench.results.wait_for(2)
    assert first.body == second.body
    assert first.message_id == second.message_id
    assert len(bench.calls()) == 1


async def test_what_the_script_does_wrong_is_a_result_and_no_dead_letter(bench: Bench) -> None:
    await bench.bus.publisher.publish(_request("a", {"code": "1/0"}))
    (answer,) = await bench.results.wait_for(1)
    assert ScriptResult.model_validate_json(answer.body).status == "error"
    assert all(queue.depth == 0 for queue in await bench.bus.dead_letters.queues())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "the body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "code: Field required"),
        (b'{"code": 5}', "code: "),
        (b'{"code": "1", "language": "perl"}', "language: "),
        (b'{"code": "1", "language": "javascript"}', "differs"),
        (b'{"code": "1", "limits": {"wall_seconds": -1}}', "limits.wall_seconds: "),
    ],
)
async def test_a_request_that_is_none_is_a_dead_letter_that_says_why(bench: Bench, body: bytes, reason: str) -> None:
    verdict = await bench.service.handle(_request("a", body))
    assert isinstance(verdict, DeadLetter)
    assert reason in verdict.reason
    assert bench.calls() == []


async def test_a_request_that_nobody_waits_for_is_a_dead_letter(bench: Bench) -> None:
    verdict = await bench.service.handle(_request("a", {"code": "1"}, return_address=None))
    assert isinstance(verdict, DeadLetter)
    assert "return address" in verdict.reason


async def test_a_foreign_client_is_answered_at_its_reply_queue(bench: Bench) -> None:
    replies = Recorder()
    watching = await bench.bus.subscriber.subscribe(WatchSubscription(name="client"), replies)
    request = _request("a", {"code": "6 * 7"}, return_address=None, reply_to=watching.address, correlation_id="mine")
    await bench.bus.publisher.publish(request)
    (answer,) = await replies.wait_for(1)
    assert answer.correlation_id == "mine"
    assert ScriptResult.model_validate_json(answer.body).value == "42"


async def test_an_expired_request_is_answered_as_a_timeout_without_running(bench: Bench) -> None:
    await bench.service.handle(_request("a", {"code": "1"}, deadline_ms=bench.clock.now_ms() - 1))
    (answer,) = await bench.results.wait_for(1)
    result = ScriptResult.model_validate_json(answer.body)
    assert result.status == "timeout"
    assert "deadline" in result.message
    assert answer.deadline_ms is None
    assert bench.calls() == []


async def test_the_deadline_of_the_request_bounds_the_run(bench: Bench) -> None:
    request = _request("a", {"code": "while True: pass"}, deadline_ms=bench.clock.now_ms() + 500)
    async with asyncio.timeout(60):
        assert await bench.service.handle(request) == Ack()
    (answer,) = await bench.results.wait_for(1)
    assert ScriptResult.model_validate_json(answer.body).status == "timeout"


async def test_cancelling_a_root_task_stops_its_scripts_and_answers_them(bench: Bench) -> None:
    handling = asyncio.create_task(bench.service.handle(_request("a", {"code": "while True: pass"})))
    async with asyncio.timeout(60):
        while not bench.calls():
            await asyncio.sleep(0)
        assert bench.service.cancel("another root") == 0
        assert bench.service.cancel("root") == 1
        assert await handling == Ack()
    (answer,) = await bench.results.wait_for(1)
    assert ScriptResult.model_validate_json(answer.body).status == "cancelled"


async def test_a_second_copy_is_put_back_while_the_first_runs(bench: Bench) -> None:
    request = _request("a", {"code": "while True: pass"})
    handling = asyncio.create_task(bench.service.handle(request))
    async with asyncio.timeout(60):
        while not bench.calls():
            await asyncio.sleep(0)
        verdict = await bench.service.handle(request)
        assert isinstance(verdict, Retry)
        assert verdict.counted is False
        bench.service.cancel("root")
        await handling
    assert len(bench.calls()) == 1


async def test_a_refused_script_is_not_run(bench: Bench) -> None:
    await bench.ledger.refuse("a", tenant="default", reason="its task was cancelled")
    assert await bench.service.handle(_request("a", {"code": "1"})) == Ack()
    assert bench.calls() == []


async def test_a_run_that_is_drained_away_can_be_taken_by_another_process_at_once(bench: Bench) -> None:
    handling = asyncio.create_task(bench.service.handle(_request("a", {"code": "while True: pass"})))
    async with asyncio.timeout(60):
        while not bench.calls():
            await asyncio.sleep(0)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
    begun = await bench.ledger.begin("a", tenant="default", owner="other", claim_seconds=5)
    assert type(begun).__name__ == "Begun"


async def test_a_result_that_cannot_be_delivered_is_tried_again_without_running_again(bench: Bench) -> None:
    request = _request("a", {"code": "1"}, return_address=ReturnAddress("nobody.here", "t"))
    for _ in range(2):
        verdict = await bench.service.handle(request)
        assert isinstance(verdict, Retry)
        assert "nobody.here" in verdict.reason
    assert len(bench.calls()) == 1


async def test_a_request_that_dies_is_told_to_its_return_address_first(bench: Bench) -> None:
    verdict = await bench.service.handle(_request("a", {"code": 5}))
    assert isinstance(verdict, DeadLetter)
    await bench.bus.publisher.publish(_request("a", {"code": 5}))
    (notice,) = await bench.results.wait_for(1)
    assert notice.type == "rockbot.agent.step-stalled"
    assert notice.return_address == _request("a", {"code": 5}).return_address
    told = json.loads(notice.body)
    assert (told["message_id"], told["queue"]) == ("a", "scripts.python")
    assert told["reason"] == verdict.reason
