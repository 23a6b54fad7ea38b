"""What is wrong with a message is said in its dead letter; the host goes on, over a broker and embedded alike.

One host and one script service run for all tests of this module. Every case ends with the next task being answered.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
import pytest_asyncio
from e2e.clients import Client, Foreign, Inside
from e2e.processes import environment, rockbot, running

from rockbot.buses import make_bus
from rockbot.container import known_work
from rockbot.operators.faults import InvalidRequest
from rockbot.processes import Embedded, compose_host
from rockbot.settings import HostSettings, Settings
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge
from rockbot_messaging.letters import Letter
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.verdicts import Ack, Verdict

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.rabbitmq,
    pytest.mark.sandbox,
    pytest.mark.timeout(240),
]

SPACE = "badinput"
TASK = "agent.task.assistant"
LIMIT = 1_000_000
OK = b'{"input": "hello"}'


def _settings(broker: str, state: str) -> Settings:
    return Settings(
        broker_url=broker,
        state_url=state,
        namespace=SPACE,
        model="scripted/demo",
        host=HostSettings(max_body_bytes=LIMIT),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def foreign(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Foreign]:
    """Host and script service as processes on the broker, and a client of it."""
    folder = tmp_path_factory.mktemp("bad-input")
    env = environment(
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_STATE_URL=f"sqlite:///{folder / 'state.db'}",
        ROCKBOT_NAMESPACE=SPACE,
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__MAX_BODY_BYTES=str(LIMIT),
        ROCKBOT_HOST__LOG_FORMAT="json",
    )
    settings = _settings(amqp_url, "memory://")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running("run", until="host consumes", env=env, cwd=folder))
        await stack.enter_async_context(running("scripts", until="service consumes", env=env, cwd=folder))
        work = known_work(compose_host(settings))
        bus = make_bus(settings, clock=SystemClock(), ids=RandomIds(), work=work)
        await bus.open()
        stack.push_async_callback(bus.close)
        connection = await aio_pika.connect(amqp_url)
        stack.push_async_callback(connection.close)
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        client = Foreign(bus, await channel.get_exchange(SPACE), replies.name)

        async def on_reply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            client.came(message.correlation_id, message.body)

        await replies.consume(on_reply, no_ack=True)
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inside() -> AsyncIterator[Inside]:
    """Everything in this process."""
    async with Embedded(_settings("memory://", "memory://")) as embedded:
        client = Inside(embedded)
        watching = await embedded.bus.subscriber.subscribe(WatchSubscription(name="client"), client.receive)
        client.replies = watching.address
        yield client


@pytest_asyncio.fixture(params=["rabbitmq", "memory"], loop_scope="module")
async def client(request: pytest.FixtureRequest, foreign: Foreign, inside: Inside) -> Client:
    return foreign if request.param == "rabbitmq" else inside


async def letter(client: Client, correlation_id: str, queue: str = "agent.assistant") -> Letter:
    """The dead letter with this correlation id, once it is there; it is taken away, so that queues stay short."""
    async with asyncio.timeout(60):
        while True:
            for found in await client.bus.dead_letters.letters(queue, limit=500):
                if found.envelope.correlation_id == correlation_id:
                    return await client.bus.dead_letters.discard(queue, found.id, reason="seen")
            await asyncio.sleep(0)


async def is_answered(client: Client) -> None:
    """The host is alive."""
    assert (await client.answer(await client.send(TASK, OK, {})))["status"] == "completed"


def part(data: bytes) -> bytes:
    return b'{"input": [{"kind": "json", "data": ' + data + b"}]}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b"not json", "Invalid JSON"),
        ('{"input": "h\xe9llo"}'.encode("latin-1"), "not UTF-8 (byte 0xe9 at position 12)"),
        ('{"input": "hello"}'.encode("utf-16"), "not UTF-8 (byte 0xff at position 0)"),
        (gzip.compress(OK, mtime=0), "compressed (gzip)"),
        (b'{"input": "a\x00b"}', "control character"),
        (b'{"input": "a\\ud800b"}', "Invalid JSON"),
        (part(b"[" * 10_000 + b"]" * 10_000), "recursion limit"),
        (part(b"1" * 5000), "number out of range"),
        (b'{"input": "x", "timeout_seconds": NaN}', "timeout_seconds"),
        (b'{"input": "x", "timeout_seconds": 1e300}', "timeout_seconds"),
        (b'["input"]', "should be an object"),
        (b'{"input": ""}', "input"),
        (b'{"input": [{"kind": "hologram"}]}', "input"),
        (b'{"input": "x", "conversation_id": "' + b"c" * 10_000 + b'"}', "conversation_id"),
    ],
)
async def test_a_body_that_is_no_task_is_a_letter_that_says_why(client: Client, body: bytes, reason: str) -> None:
    dead = await letter(client, await client.send(TASK, body, {}, content_encoding="utf-8"))
    assert reason in dead.failure.reason
    assert dead.envelope.body == body
    assert (dead.failure.topic, dead.failure.attempt) == (TASK, 1)
    assert not dead.failure.traceback
    await is_answered(client)


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": "one", "input": "two"}',
        b"\xef\xbb\xbf" + OK,
        b'{"input": "a\\u0000b"}',
        part(b"[" * 100 + b"]" * 100),
        part(b"1" * 400),
        part(b"1e999"),
        part(b"NaN"),
        b'{"input": "x", "conversation_id": "../a/b|c:\\u0000 \\ud83d\\ude00 .#.*"}',
    ],
)
async def test_what_is_odd_and_still_a_task_is_answered(client: Client, body: bytes) -> None:
    assert (await client.answer(await client.send(TASK, body, {})))["status"] == "completed"


async def test_routing_data_that_cannot_be_honoured_is_a_letter_that_says_why(client: Client) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"type": "nobody.knows"}, "no event is named 'nobody.knows'"),
        ({}, {"reply_to": f"{SPACE}.agent.assistant"}, "names a queue of this host"),
        ({}, {"reply_to": f"{SPACE}.unrouted"}, "names a queue of this host"),
        ({"rockbot-conversation-id": "c" * 10_000}, {}, "the conversation id has 10000 characters; at most 255"),
    ]
    sent = [(await client.send(TASK, OK, headers, **properties), reason) for headers, properties, reason in cases]
    for correlation_id, reason in sent:
        assert reason in (await letter(client, correlation_id)).failure.reason
    script = await client.send("script.invoke.python", b'{"code": "1"}', {}, reply_to=f"{SPACE}.scripts.python")
    assert "names a queue of this host" in (await letter(client, script, "scripts.python")).failure.reason
    await is_answered(client)


async def test_an_expired_task_is_answered_as_expired(client: Client) -> None:
    answer = await client.answer(await client.send(TASK, OK, {"rockbot-deadline": 1000}))
    assert (answer["status"], answer["error"]["code"]) == ("expired", "expired")


async def test_an_expired_script_is_answered_as_a_timeout(client: Client) -> None:
    answer = await client.answer(await client.send("script.invoke.python", b'{"code": "1"}', {"rockbot-deadline": 1}))
    assert (answer["status"], answer["stdout"]) == ("timeout", "")


async def test_an_expired_step_answers_its_turn(client: Client) -> None:
    told: asyncio.Queue[MessageEnvelope] = asyncio.Queue()

    async def receive(envelope: MessageEnvelope) -> Verdict:
        told.put_nowait(envelope)
        return Ack()

    watching = await client.bus.subscriber.subscribe(WatchSubscription(name="turn", patterns=("turn.step",)), receive)
    request = MessageEnvelope(
        topic="llm.request.scripted.interactive",
        body=b'{"model": "scripted/demo", "messages": []}',
        message_id=str(uuid4()),
        type="rockbot.llm.request",
        deadline_ms=1,
        return_address=ReturnAddress("turn.step", "token"),
    )
    await client.bus.publisher.publish(request)
    async with asyncio.timeout(60):
        notice = await told.get()
    await watching.stop(timeout=1)
    assert (notice.type, json.loads(notice.body)) == ("rockbot.agent.step-expired", {"message_id": request.message_id})


async def test_two_hundred_tasks_of_one_conversation_are_each_answered_once(client: Client) -> None:
    conversation = {"rockbot-conversation-id": f"crowd/{uuid4()}"}
    sent = [await client.send(TASK, b'{"input": "hello %d"}' % number, conversation) for number in range(200)]
    answers = [await client.answer(item) for item in sent]
    # A conversation takes a hundred waiting tasks; whoever comes then is told so.
    assert {item["error"]["code"] for item in answers if item["status"] != "completed"} <= {"busy"}
    assert len([item for item in answers if item["status"] == "completed"]) >= 100
    await is_answered(client)


async def test_a_body_over_the_limit_is_refused_here_and_dead_lettered_there(foreign: Foreign) -> None:
    body = json.dumps({"input": "x" * LIMIT}).encode()
    with pytest.raises(BodyTooLarge, match=f"the limit is {LIMIT}"):
        await foreign.operator.publish(TASK, body)
    dead = await letter(foreign, await foreign.send(TASK, body, {}))
    assert f"takes at most {LIMIT}" in dead.failure.reason
    assert dead.envelope.body == body
    await is_answered(foreign)


async def test_headers_of_every_wrong_type_are_as_if_they_were_not_there(foreign: Foreign) -> None:
    wrong: list[Any] = [None, True, -1, 1 << 62, 1.5, "text", bytearray(b"\xff"), [1, ["x"]], {"a": {"b": None}}]
    wrong += [datetime(2500, 1, 1, tzinfo=UTC), Decimal("1.5")]
    names = (
        "attempt",
        "handbacks",
        "conversation-id",
        "root-task-id",
        "tenant",
        "causation-id",
        "destination",
        "history",
    )
    for value in wrong:
        headers = {f"rockbot-{name}": value for name in names}
        headers |= {"rockbot-schema-version": "1", "traceparent": value, "tracestate": "s" * 60_000, "free": value}
        # A deadline or an instant to wait for is believed when it is a number.
        headers |= {} if type(value) is int or isinstance(value, datetime) else {"rockbot-deadline": value}
        assert (await foreign.answer(await foreign.send(TASK, OK, headers)))["status"] == "completed"


async def _waiting(url: str, queue: str, ids: set[str]) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Take messages out of the long delay queues of a queue until these were found."""
    found: list[aio_pika.abc.AbstractIncomingMessage] = []
    while {message.correlation_id for message in found} < ids:
        for delay in (5, 30):  # the second holds what was not looked for in time in the first
            try:
                async with await aio_pika.connect(url) as connection:
                    delayed = await (await connection.channel()).get_queue(f"{queue}.delay.{delay}")
                    while (message := await delayed.get(no_ack=True, fail=False)) is not None:
                        found.append(message)
            except aio_pika.exceptions.AMQPError:
                continue  # delay queues are made when first needed, and a queue in the making answers with an error
    return found


async def test_a_newer_schema_version_waits_without_costing_an_attempt(foreign: Foreign, amqp_url: str) -> None:
    headers = {"rockbot-schema-version": 99}
    tasks = {
        await foreign.send(TASK, OK, headers, message_id=str(uuid4())),
        await foreign.send(TASK, OK, headers),
    }
    script = await foreign.send("script.invoke.python", b'{"code": "1"}', headers)
    async with asyncio.timeout(200):
        delayed = await _waiting(amqp_url, f"{SPACE}.agent.assistant", tasks)
        delayed += await _waiting(amqp_url, f"{SPACE}.scripts.python", {script})
    assert sorted(str(message.correlation_id) for message in delayed) == sorted({*tasks, script})
    for message in delayed:
        assert "rockbot-attempt" not in message.headers
        assert message.headers["rockbot-handbacks"] >= 2
    for queue in ("agent.assistant", "scripts.python"):
        letters = await foreign.bus.dead_letters.letters(queue, limit=500)
        assert not {*tasks, script} & {item.envelope.correlation_id for item in letters}


async def test_an_answer_nobody_waits_for_any_more_troubles_nobody(foreign: Foreign) -> None:
    for address in ("no.such.queue", "q" * 255):
        await foreign.send(TASK, OK, {}, reply_to=address)
    await is_answered(foreign)


async def test_topics_nobody_can_receive_are_kept_with_their_message(foreign: Foreign) -> None:
    for topic in ("", "k" * 255, "agent.task.nobody", "agent.task.\xe4 b"):
        kept = await letter(foreign, await foreign.send(topic, OK, {}), "unrouted")
        assert (kept.envelope.topic, kept.envelope.body) == (topic, OK)
        assert "nobody receives topic" in kept.failure.reason


async def test_what_amqp_cannot_carry_is_a_wrong_request(foreign: Foreign) -> None:
    wrong: list[dict[str, Any]] = [
        {"correlation_id": "c" * 1_000_000},
        {"correlation_id": "\ud800"},
        {"type": "t" * 256},
        {"headers": {"n" * 256: "x"}},
        {"headers": {"n": 1 << 70}},
    ]
    for fields in wrong:
        with pytest.raises(InvalidRequest, match="cannot be sent"):
            await foreign.operator.publish(TASK, OK, **fields)
    with pytest.raises(HeadersTooLarge, match="bytes, the limit is 65536"):
        await foreign.operator.publish(TASK, OK, headers={"n": "x" * 1_000_000})


async def test_asking_an_agent_that_does_not_exist_says_so_and_keeps_the_task(
    foreign: Foreign, amqp_url: str, tmp_path: Path
) -> None:
    env = environment(ROCKBOT_BROKER_URL=amqp_url, ROCKBOT_NAMESPACE=SPACE)
    code, out, err = await rockbot(["ask", "nobody", "hello"], env=env, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert "no running host has an agent 'nobody'" in err
    assert "rockbot dlq show unrouted" in err
    kept = [item for item in await foreign.bus.dead_letters.letters("unrouted") if b"hello" in item.envelope.body]
    assert kept[-1].envelope.topic == "agent.task.nobody"
