"""``dlq``: sending on, putting away, bringing back, carrying elsewhere."""

from __future__ import annotations

import asyncio
import io
import json
import stat
import sys
from pathlib import Path

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost, bury

from rockbot.state.keys import task_key

QUEUE = "agent.assistant"
GOOD = b'{"input": "silent"}'


class Terminal(io.StringIO):
    """Somebody at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nobody_at_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


async def seen(host: FakeHost, count: int) -> list[str]:
    """Ids of the messages that the agent got, once it has so many."""
    async with asyncio.timeout(60):
        while len(host.agent.seen) < count:
            await asyncio.sleep(0)
    return sorted(message.message_id for message in host.agent.seen)


async def three(host: FakeHost) -> None:
    for number in range(3):
        await bury(host.bus, f"letter-{number}", body=GOOD, reason=f"reason {'xyz'[number]}", at_ms=1000 + number)


async def test_letters_are_sent_on_by_id(cli: Cli, host: FakeHost) -> None:
    await three(host)
    ran = await cli("dlq", "replay", "letter-1")
    assert (ran.code, ran.out) == (0, "sent on letter-1 to agent.task.assistant\n")
    ran = await cli("dlq", "replay", QUEUE, "letter-0", "letter-2", "--json")
    [progress] = ran.lines
    assert (ran.code, progress["worked"], progress["done"]) == (0, 2, True)
    assert await seen(host, 3) == ["letter-0", "letter-1", "letter-2"]
    assert await host.lying() == []


async def test_letters_are_sent_on_by_filter_group_and_queue(cli: Cli, host: FakeHost) -> None:
    await three(host)
    assert (await cli("dlq", "replay", "--text", "reason y")).out == "sent on 1 letter\n"
    [group] = [item for item in (await cli("dlq", "groups", "--json")).lines if item["reason"] == "reason x"]
    assert (await cli("dlq", "replay", "--group", group["id"])).code == 0
    assert await host.lying() == ["letter-2"]
    assert (await cli("dlq", "replay", "unrouted", "--all")).out == "sent on 0 letters\n"
    assert (await cli("dlq", "replay", QUEUE, "--all")).out == "sent on 1 letter\n"
    assert await seen(host, 3) == ["letter-0", "letter-1", "letter-2"]


async def test_every_letter_of_every_queue_is_sent_on(cli: Cli, host: FakeHost) -> None:
    await three(host)
    await bury(host.bus, "letter-u", queue="unrouted", body=GOOD)
    assert (await cli("dlq", "replay", "--all", "--json")).lines[0]["worked"] == 4
    assert len(await seen(host, 4)) == 4


async def test_a_letter_that_cannot_be_sent_on_stays_and_is_named(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", queue="unrouted", topic="no.such")
    await bury(host.bus, "letter-2", queue="unrouted", body=GOOD)
    ran = await cli("dlq", "replay", "unrouted", "--all")
    assert ran.code == 6
    assert ran.out.startswith("sent on 1 of 2 letters\n1 letter stayed\nletter-1  ")
    assert "no.such" in ran.out
    assert await host.lying("unrouted") == ["letter-1"]
    single = await cli("dlq", "replay", "letter-1", "--json")
    assert (single.code, single.lines[0]["refusals"]) == (6, 1)


async def test_a_step_whose_turn_has_ended_stays_and_says_what_can_be_done(cli: Cli, host: FakeHost) -> None:
    row = {"status": "completed", "conversation_id": "talk", "agent": "assistant"}
    await host.store.put(task_key("default", "task-1"), json.dumps(row).encode())
    await bury(
        host.bus,
        "letter-1",
        type="rockbot.llm.request",
        topic="llm.request.scripted.interactive",
        root_task_id="task-1",
    )
    shown = await cli("dlq", "show", "letter-1")
    assert "has ended: completed of assistant (task task-1)" in shown.out
    assert "anew:       rockbot dlq replay agent.assistant letter-1 --restart-turn" in shown.out
    ran = await cli("dlq", "replay", "letter-1")
    assert (ran.code, ran.out.splitlines()[:2]) == (6, ["sent on 0 of 1 letter", "1 letter stayed"])
    assert "the turns of 1 have ended: --restart-turn begins their tasks anew" in ran.err
    refused = await cli("dlq", "replay", QUEUE, "--all", "--new-id")
    assert (refused.code, "letter-1" in refused.err) == (2, True)
    assert await host.lying() == ["letter-1"]


async def test_new_ids_make_new_messages(cli: Cli, host: FakeHost) -> None:
    await three(host)
    assert (await cli("dlq", "replay", QUEUE, "--all", "--new-id")).code == 0
    assert set(await seen(host, 3)).isdisjoint({"letter-0", "letter-1", "letter-2"})


async def test_a_dry_run_changes_nothing(cli: Cli, host: FakeHost) -> None:
    await three(host)
    for command, told in (
        (("replay", QUEUE, "--all"), "would send on 3 letters; nothing was changed\n"),
        (("replay", "letter-1"), "would send on 1 letter; nothing was changed\n"),
        (("discard", QUEUE, "--all", "--reason", "x"), "would discard 3 letters; nothing was changed\n"),
    ):
        ran = await cli("dlq", *command, "--dry-run")
        assert (ran.code, ran.out) == (0, told)
    assert await host.lying() == ["letter-0", "letter-1", "letter-2"]
    assert host.agent.seen == []
    assert (await cli("dlq", "audit", "--json")).lines == []


async def test_a_slow_replay_keeps_its_rate(cli: Cli, host: FakeHost) -> None:
    await three(host)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert (await cli("dlq", "replay", QUEUE, "--all", "--rate", "2")).code == 0
    # What a second is worth goes at once; the third letter waits for the next one.
    assert loop.time() - begun > 0.9
    assert len(await seen(host, 3)) == 3


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 3), ("y\n", 0, 0)])
async def test_more_than_one_letter_is_asked_for_on_a_terminal(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    await three(host)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    ran = await cli("dlq", "replay", QUEUE, "--all")
    assert "Send on 3 letters? [y/N]" in ran.err
    assert (ran.code, len(await host.lying())) == (code, left)


async def test_one_letter_or_a_yes_is_not_asked_for(cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    await three(host)
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert (await cli("dlq", "replay", "letter-1")).code == 0
    assert (await cli("dlq", "replay", QUEUE, "--all", "--yes")).code == 0
    assert await host.lying() == []


async def test_discarding_needs_a_yes(cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    await three(host)
    refused = await cli("dlq", "discard", "letter-1", "--reason", "a test")
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    asked = await cli("dlq", "discard", "letter-1", "--reason", "a test")
    assert (asked.code, "letter-1 in agent.assistant: reason y\nPut away 1 letter?" in asked.err) == (1, True)
    assert len(await host.lying()) == 3
    ran = await cli("dlq", "discard", "letter-1", "--reason", "a test", "--yes")
    assert (ran.code, ran.out) == (0, "discarded letter-1 of agent.assistant\n")
    ran = await cli("dlq", "discard", QUEUE, "--all", "--reason", "a test", "--yes")
    assert ran.out == "discarded 2 letters\n"
    assert await host.lying() == []


async def test_discarded_letters_are_restored(cli: Cli, host: FakeHost) -> None:
    await three(host)
    await bury(host.bus, "letter-u", queue="unrouted")
    assert (await cli("dlq", "discard", "--all", "--reason", "a test", "--yes")).code == 0
    assert (await cli("dlq", "restore", "letter-1")).out == "restored 1 letter\n"
    assert await host.lying() == ["letter-1"]
    assert (await cli("dlq", "restore", "unrouted", "--all")).out == "restored 1 letter\n"
    assert await host.lying("unrouted") == ["letter-u"]
    assert (await cli("dlq", "restore", "--text", "reason x")).code == 0
    assert (await cli("dlq", "restore", "--all")).code == 0
    assert sorted(await host.lying()) == ["letter-0", "letter-1", "letter-2"]
    missing = await cli("dlq", "restore", "letter-9")
    assert (missing.code, "no letter 'letter-9' lies in discarded" in missing.err) == (1, True)


async def test_a_purge_asks_for_the_number(cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    await three(host)
    command = ("dlq", "purge", QUEUE, "--reason", "a test")
    nobody = await cli(*command)
    assert (nobody.code, "add --yes --expect N" in nobody.err) == (2, True)
    for typed in ("y\n", "2\n", "\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        ran = await cli(*command)
        assert (ran.code, "nothing was erased" in ran.err) == (1, True)
    assert len(await host.lying()) == 3
    monkeypatch.setattr(sys, "stdin", Terminal("3\n"))
    ran = await cli(*command)
    assert (ran.code, ran.out) == (0, "erased 3 letters\n")
    assert await host.lying() == []
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert "no letters lie in" in (await cli(*command)).err


async def test_a_purge_without_a_question_names_what_it_expects(cli: Cli, host: FakeHost) -> None:
    await three(host)
    command = ("dlq", "purge", QUEUE, "--reason", "a test", "--yes")
    refused = await cli(*command, "--expect", "2")
    assert (refused.code, "3 letters, and 2 were expected" in refused.err) == (2, True)
    assert len(await host.lying()) == 3
    assert (await cli(*command, "--expect", "3")).code == 0
    assert await host.lying() == []


async def test_letters_are_exported_and_imported(cli: Cli, host: FakeHost, tmp_path: Path) -> None:
    await bury(host.bus, "letter-1", body=b"\xff\x00", headers={"k": "v"})
    await bury(host.bus, "letter-2", error="KeyError")
    path = tmp_path / "letters.jsonl"
    ran = await cli("dlq", "export", QUEUE, "-o", str(path))
    assert (ran.code, ran.out, ran.err) == (0, "", f"2 letters written to {path}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["letter-1", "letter-2"]
    for output in ((), ("-o", "-")):
        lines = (await cli("dlq", "export", "--error", "KeyError", *output)).lines
        assert [line["id"] for line in lines] == ["letter-2"]
    assert not Path("-").exists()
    assert len(await host.lying()) == 2
    await cli("dlq", "purge", QUEUE, "--reason", "x", "--yes", "--expect", "2")
    ran = await cli("dlq", "import", str(path))
    assert (ran.code, ran.out) == (0, "imported 2 letters\n")
    assert await host.lying() == ["letter-1", "letter-2"]
    assert (await cli("dlq", "import", str(path), "--queue", "unrouted")).code == 0
    assert await host.lying("unrouted") == ["letter-1", "letter-2"]
    again = await cli("dlq", "export", "-o", str(path))
    assert (again.code, "nothing is written over" in again.err) == (2, True)


async def test_letters_are_imported_from_standard_input(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(host.bus, "letter-1")
    exported = (await cli("dlq", "export")).out
    await cli("dlq", "purge", QUEUE, "--reason", "x", "--yes", "--expect", "1")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(exported.encode())))
    assert (await cli("dlq", "import", "-")).code == 0
    assert await host.lying() == ["letter-1"]


async def test_a_line_that_is_no_letter_stops_an_import_before_it_begins(
    cli: Cli, host: FakeHost, tmp_path: Path
) -> None:
    await bury(host.bus, "letter-1")
    path = tmp_path / "letters.jsonl"
    path.write_text((await cli("dlq", "export")).out + '\n{"version": 2}\n')
    await cli("dlq", "purge", QUEUE, "--reason", "x", "--yes", "--expect", "1")
    ran = await cli("dlq", "import", str(path))
    assert ran.code == 2
    assert ran.err.startswith(f"error: line 3 of {path} is no exported letter: ")
    assert await host.lying() == []


async def test_a_scan_tells_what_it_found(cli: Cli, host: FakeHost) -> None:
    await three(host)
    ran = await cli("dlq", "scan")
    assert (ran.code, ran.out.startswith("looked at 3 letters; ")) == (0, True)
    assert (await cli("dlq", "scan", "no.such")).code == 1


async def test_two_thousand_letters_are_sent_on(cli: Cli, host: FakeHost) -> None:
    for number in range(2000):
        await bury(host.bus, f"letter-{number:04}", body=GOOD)
    ran = await cli("dlq", "replay", QUEUE, "--all", "--json")
    assert (ran.code, ran.lines[-1]["worked"], ran.lines[-1]["total"]) == (0, 2000, 2000)
    assert await host.lying() == []
    assert len(set(await seen(host, 2000))) == 2000
