"""Long actions as they are followed: lines, a bar on a terminal, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost, bury

from rockbot.cli.invocation import Invocation
from rockbot.cli.letters_progress import follow
from rockbot.letters.models import Progress
from rockbot_messaging.errors import BrokerUnreachable

QUEUE = "agent.assistant"
GOOD = b'{"input": "silent"}'


async def many(host: FakeHost, count: int) -> None:
    for number in range(count):
        await bury(host.bus, f"letter-{number:04}", body=GOOD)


async def test_without_a_terminal_there_is_a_line_now_and_then(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(host, 600)
    monkeypatch.setattr("rockbot.cli.letters_progress._LINE_EVERY", 3600.0)
    quick = await cli("dlq", "discard", QUEUE, "--all", "--reason", "x", "--yes", "--dry-run")
    assert quick.err == ""
    monkeypatch.setattr("rockbot.cli.letters_progress._LINE_EVERY", 0.0)
    ran = await cli("dlq", "discard", QUEUE, "--all", "--reason", "x", "--yes")
    lines = ran.err.splitlines()
    assert len(lines) >= 2
    assert all(line.endswith(f"discarded {line.split()[-1]}") and " of 600 seen, " in line for line in lines)
    assert ran.out == "discarded 600 letters\n"


async def test_programs_get_progress_as_json_on_standard_error(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(host, 600)
    monkeypatch.setattr("rockbot.cli.letters_progress._LINE_EVERY", 0.0)
    ran = await cli("dlq", "discard", QUEUE, "--all", "--reason", "x", "--yes", "--json")
    told = [json.loads(line) for line in ran.err.splitlines()]
    assert told
    assert all(progress["total"] == 600 and not progress["done"] for progress in told)
    assert (ran.lines[-1]["worked"], ran.lines[-1]["done"]) == (600, True)


class Session:
    """A command in a process of its own, at a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self.screen = b""

    async def until(self, text: str) -> None:
        """Wait until the terminal has shown a text."""
        async with asyncio.timeout(60):
            while text.encode() not in self.screen:
                self.screen += await asyncio.to_thread(os.read, self._master, 4096)

    async def end(self) -> tuple[int, str]:
        """Exit code and standard output."""
        async with asyncio.timeout(60):
            # A terminal that nobody reads takes a few thousand bytes, and then its writer waits.
            (out, _), _ = await asyncio.gather(self.process.communicate(), self._read_on())
        assert self.process.returncode is not None
        os.close(self._master)
        return self.process.returncode, out.decode()

    async def _read_on(self) -> None:
        with contextlib.suppress(OSError):  # it says so when nobody has the other end any more
            while shown := await asyncio.to_thread(os.read, self._master, 65536):
                self.screen += shown


async def at_a_terminal(host: FakeHost, *arguments: str) -> Session:
    master, slave = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rockbot.cli",
        "--socket",
        str(host.socket),
        *arguments,
        stdin=slave,
        stderr=slave,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(slave)
    return Session(process, master)


async def test_a_terminal_shows_a_bar(host: FakeHost) -> None:
    await many(host, 600)
    session = await at_a_terminal(host, "dlq", "replay", QUEUE, "--all", "--yes")
    await session.until("/600")
    code, out = await session.end()
    assert (code, out) == (0, "sent on 600 letters\n")
    assert b"replay" in session.screen


async def test_an_interrupted_action_finishes_its_batch_and_goes_on_the_next_time(host: FakeHost) -> None:
    await many(host, 200)
    session = await at_a_terminal(host, "dlq", "replay", QUEUE, "--all", "--yes", "--rate", "5")
    await session.until("/200")
    session.process.send_signal(signal.SIGINT)
    await session.until("finishing the batch in hand")
    code, out = await session.end()
    assert code == 130
    assert out.startswith("sent on ")
    assert out.endswith(" of 200 letters; interrupted\n")
    assert b"the same command goes on with the rest" in session.screen
    assert b"Traceback" not in session.screen
    async with asyncio.timeout(60):
        while host.actions.running:
            await asyncio.sleep(0)
    left = await host.lying()
    assert 0 < len(left) < 200
    again = await at_a_terminal(host, "dlq", "replay", QUEUE, "--all", "--yes")
    assert await again.end() == (0, f"sent on {len(left)} letters\n")
    async with asyncio.timeout(60):
        while len(host.agent.seen) < 200:
            await asyncio.sleep(0)
    assert len({seen.message_id for seen in host.agent.seen}) == 200


async def test_a_question_is_answered_or_interrupted_at_a_terminal(host: FakeHost) -> None:
    await many(host, 3)
    session = await at_a_terminal(host, "dlq", "replay", QUEUE, "--all")
    await session.until("Send on 3 letters? [y/N]")
    session.process.send_signal(signal.SIGINT)
    code, out = await session.end()
    assert (code, out) == (130, "")
    assert b"Traceback" not in session.screen
    assert len(await host.lying()) == 3


async def test_an_error_on_the_way_leaves_word_of_how_far_it_came(capfd: pytest.CaptureFixture[str]) -> None:
    async def breaks() -> AsyncIterator[Progress]:
        yield Progress(action="replay", total=10, seen=4, worked=4)
        raise BrokerUnreachable("the broker is gone")

    with pytest.raises(BrokerUnreachable):
        await follow(Invocation(), breaks())
    assert capfd.readouterr().err.splitlines() == [
        "sent on 4 of 10 letters, then came the error below",
        "when it is mended, the same command goes on with the rest",
    ]
