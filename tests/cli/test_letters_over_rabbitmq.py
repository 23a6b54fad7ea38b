"""``dlq`` with a broker: the command line works the queues itself, with an index in a state file of its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cli.conftest import Ran
from gateway.fake_agent import AGENT, FakeAgent, bury

from rockbot.cli.main import run
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings

pytestmark = pytest.mark.rabbitmq

QUEUE = AGENT.name
GOOD = b'{"input": "silent"}'
Remote = Callable[..., Awaitable[Ran]]


@pytest.fixture
def namespace() -> str:
    return f"cli{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def bus(amqp_url: str, namespace: str) -> AsyncIterator[RabbitBus]:
    """The host's connection; the queues exist, and nobody consumes yet."""
    bus = RabbitBus(
        RabbitSettings(url=amqp_url, namespace=namespace, subscriptions=(QUEUE,)), clock=SystemClock(), ids=RandomIds()
    )
    await bus.open()
    await bus.declare([AGENT])
    yield bus
    await bus.close()


@pytest.fixture
def remote(
    amqp_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Remote:
    """Run a command against the broker; in a thread, because it brings an event loop of its own."""
    monkeypatch.setenv("ROCKBOT_BROKER_URL", amqp_url)
    monkeypatch.setenv("ROCKBOT_NAMESPACE", namespace)
    monkeypatch.setenv("ROCKBOT_STATE_URL", f"sqlite:///{tmp_path / 'mine.db'}")

    async def execute(*arguments: str) -> Ran:
        capfd.readouterr()
        code = await asyncio.to_thread(run, arguments)
        return Ran(code, *capfd.readouterr())

    return execute


async def test_letters_are_listed_grouped_and_shown(remote: Remote, bus: RabbitBus) -> None:
    for number in range(3):
        await bury(bus, f"letter-{number}", reason=f"no disk {number}")
    await bury(bus, "letter-x", queue="unrouted", topic="a.b", error="KeyError", body=b"\xff")
    ran = await remote("--json", "dlq", "list", QUEUE)
    assert (ran.code, [row["id"] for row in ran.lines]) == (0, ["letter-0", "letter-1", "letter-2"])
    assert [row["id"] for row in (await remote("--json", "dlq", "list", "--error", "KeyError")).lines] == ["letter-x"]
    assert sorted(group["count"] for group in (await remote("--json", "dlq", "groups")).lines) == [1, 3]
    depths = {row["subscription"]: row["depth"] for row in (await remote("--json", "dlq", "queues")).lines}
    assert (depths[QUEUE], depths["unrouted"]) == (3, 1)
    shown = await remote("dlq", "show", "letter-x")
    assert "00000000  ff" in shown.out


async def test_five_hundred_letters_are_sent_on(remote: Remote, bus: RabbitBus) -> None:
    await asyncio.gather(*(bury(bus, f"letter-{number:03}", body=GOOD) for number in range(500)))
    dry = await remote("--json", "dlq", "replay", QUEUE, "--all", "--dry-run")
    assert (dry.lines[-1]["worked"], dry.lines[-1]["dry_run"]) == (500, True)
    assert await bus.dead_letters.letters(QUEUE, limit=1)
    ran = await remote("--json", "dlq", "replay", "--all")
    assert (ran.code, ran.lines[-1]["worked"], ran.lines[-1]["refusals"]) == (0, 500, 0)
    agent = FakeAgent(bus)
    await bus.subscriber.subscribe(AGENT, agent)
    async with asyncio.timeout(60):
        while len(agent.seen) < 500:
            await asyncio.sleep(0.01)
    assert len({seen.message_id for seen in agent.seen}) == 500
    assert (await remote("dlq", "list")).out == "no dead letters\n"


async def test_a_letter_is_mended_and_its_original_kept(remote: Remote, bus: RabbitBus) -> None:
    await bury(bus, "letter-1", headers={"k": "v"})
    ran = await remote("dlq", "replay", "letter-1", "--body", GOOD.decode(), "--set-header", "k=w")
    assert (ran.code, ran.out) == (0, "sent on letter-1 to agent.task.assistant\n"), ran.err
    agent = FakeAgent(bus)
    await bus.subscriber.subscribe(AGENT, agent)
    await asyncio.wait_for(agent.asked.wait(), 60)
    assert (agent.seen[0].body, agent.seen[0].headers["k"]) == (GOOD, "w")
    assert "not json" in (await remote("dlq", "show", "discarded", "letter-1")).out


async def test_letters_are_discarded_restored_exported_purged_and_imported(
    remote: Remote, bus: RabbitBus, tmp_path: Path
) -> None:
    for number in range(3):
        await bury(bus, f"letter-{number}", headers={"n": number})
    assert (await remote("dlq", "discard", "letter-1", "--reason", "a test", "--yes")).code == 0
    assert len((await remote("--json", "dlq", "list")).lines) == 2
    assert [row["id"] for row in (await remote("--json", "dlq", "discarded")).lines] == ["letter-1"]
    assert (await remote("dlq", "restore", "letter-1")).out == "restored 1 letter\n"
    path = tmp_path / "letters.jsonl"
    assert (await remote("dlq", "export", "-o", str(path))).code == 0
    assert {json.loads(line)["id"] for line in path.read_text().splitlines()} == {"letter-0", "letter-1", "letter-2"}
    purged = await remote("dlq", "purge", QUEUE, "--reason", "a test", "--yes", "--expect", "3")
    assert (purged.code, purged.out) == (0, "erased 3 letters\n")
    assert (await remote("dlq", "import", str(path))).out == "imported 3 letters\n"
    assert {row["id"] for row in (await remote("--json", "dlq", "list")).lines} == {"letter-0", "letter-1", "letter-2"}
    actions = [entry["action"] for entry in (await remote("--json", "dlq", "audit")).lines]
    assert actions == ["import", "purge", "restore", "discard"]


async def test_the_doctor_counts_letters_and_fails_on_request(remote: Remote, bus: RabbitBus) -> None:
    await bury(bus, "letter-1")
    ran = await remote("--json", "doctor", "--fail-on", "dead-letters")
    assert ran.code == 6
    [found] = [line for line in ran.lines if line["name"] == "dead letters"]
    assert (found["status"], found["detail"].split(",")[1]) == ("warn", " 1 in the last hour")


async def test_without_its_state_file_the_doctor_still_counts_and_letters_say_why(
    remote: Remote, bus: RabbitBus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await bury(bus, "letter-1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROCKBOT_STATE_URL", f"sqlite:///{tmp_path / 'file' / 'no.db'}")
    found = {line["name"]: line for line in (await remote("--json", "doctor")).lines}
    assert (found["state"]["status"], found["dead letters"]["detail"].split()[0]) == ("fail", "1")
    ran = await remote("dlq", "list", "--json")
    assert (ran.code, ran.error["code"]) == (1, "state_unavailable")
