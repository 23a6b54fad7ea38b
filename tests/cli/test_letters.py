"""``dlq``: reading dead letters."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost, bury

from rockbot_messaging.clock import SystemClock

TASK = "agent.task.assistant"
HOUR = 3_600_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "a", "b", "c"),
        ("show", "agent.assistant"),
        ("list", "--since", "yesterday"),
        ("list", "--limit", "0"),
        ("list", "--since", "1h", "--before", "2h"),
        ("replay",),
        ("replay", "agent.assistant"),
        ("replay", "agent.assistant", "abcdef", "--error", "OSError"),
        ("replay", "abcdef", "--edit", "--body", "x"),
        ("replay", "abcdef", "--headers"),
        ("replay", "abcdef", "--body", "{}", "--dry-run"),
        ("replay", "agent.assistant", "--all", "--body", "{}"),
        ("replay", "--all", "--set-header", "a=b"),
        ("discard", "abcdef"),
        ("discard", "abcdef", "--reason", " "),
        ("discard", "--reason", "x", "--yes"),
        ("purge", "agent.assistant", "--reason", "x", "--yes"),
        ("purge", "agent.assistant", "--reason", "x", "--expect", "1"),
        ("purge", "agent.assistant", "--reason", " ", "--expect", "1", "--yes"),
        ("restore",),
        ("import", "/no/such/file"),
    ],
    ids=" ".join,
)
async def test_wrong_usage_is_exit_code_2_and_does_nothing(
    cli: Cli, host: FakeHost, arguments: tuple[str, ...]
) -> None:
    await bury(host.bus, "abcdef-1")
    ran = await cli("dlq", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) <= 2
    assert await host.lying() == ["abcdef-1"]


async def test_dead_letters_are_listed_with_their_reason(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "list")).out == "no dead letters\n"
    await bury(host.bus, "letter-1")
    ran = await cli("dlq", "list")
    header, row = ran.out.splitlines()
    assert header.split() == ["QUEUE", "ID", "DIED", "TOPIC", "ATTEMPT", "REASON"]
    assert row.startswith("agent.assistant  letter-1  ")
    assert row.endswith("no disk")
    assert "read one: rockbot dlq show agent.assistant letter-1" in ran.err
    [letter] = (await cli("dlq", "list", "agent.assistant", "--json")).lines
    assert {
        name: letter[name] for name in ("id", "queue", "topic", "reason", "error_type", "attempt", "body_size")
    } == {
        "id": "letter-1",
        "queue": "agent.assistant",
        "topic": TASK,
        "reason": "no disk",
        "error_type": "OSError",
        "attempt": 3,
        "body_size": 8,
    }


async def test_letters_are_filtered(cli: Cli, host: FakeHost) -> None:
    now_ms = SystemClock().now_ms()
    await bury(host.bus, "letter-1", at_ms=now_ms - 5 * HOUR, conversation_id="talk")
    await bury(host.bus, "letter-2", at_ms=now_ms - HOUR, error="KeyError", handler="other", reason="no key")
    await bury(host.bus, "letter-3", queue="unrouted", topic="a.b", type="x", error="", handler="", root_task_id="t")
    for options, expected in (
        ((), ["letter-1", "letter-2", "letter-3"]),
        (("--newest",), ["letter-3", "letter-2", "letter-1"]),
        (("unrouted",), ["letter-3"]),
        (("rockbot.agent.assistant.dlq",), ["letter-1", "letter-2"]),
        (("--type", "x"), ["letter-3"]),
        (("--error", "KeyError"), ["letter-2"]),
        (("--handler", "agent"), ["letter-1"]),
        (("--topic", "agent.#"), ["letter-1", "letter-2"]),
        (("--conversation", "talk"), ["letter-1"]),
        (("--task", "t"), ["letter-3"]),
        (("--text", "NO KEY"), ["letter-2"]),
        (("--since", "2h"), ["letter-2", "letter-3"]),
        (("--before", "2h"), ["letter-1"]),
        (("--since", "2000-01-01", "--before", "2000-01-02T10:00"), []),
    ):
        found = (await cli("--json", "dlq", "list", *options)).lines
        assert [row["id"] for row in found] == expected, options


async def test_a_page_tells_how_many_there_are_and_how_to_go_on(cli: Cli, host: FakeHost) -> None:
    for number in range(5):
        await bury(host.bus, f"letter-{number}", at_ms=1000 + number)
    ran = await cli("dlq", "list", "--limit", "3")
    [told] = [line for line in ran.err.splitlines() if line.startswith("3 of 5 letters")]
    more = await cli("--json", "dlq", "list", "--limit", "3", "--after", told.rpartition(" ")[2])
    assert [row["id"] for row in more.lines] == ["letter-3", "letter-4"]
    assert "go on" not in more.err


async def test_dlq_list_fails_on_request_when_there_is_a_letter(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "list", "--fail-if-any")).code == 0
    await bury(host.bus, "letter-1")
    assert (await cli("dlq", "list", "--fail-if-any")).code == 6


async def test_dlq_queues_counts(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", at_ms=86_400_000)
    await bury(host.bus, "letter-2")
    mine, unrouted = (await cli("dlq", "queues", "--json")).lines
    assert (mine["name"], mine["subscription"], mine["depth"], mine["per_hour"], mine["oldest_ms"]) == (
        "rockbot.agent.assistant.dlq",
        "agent.assistant",
        2,
        1,
        86_400_000,
    )
    assert (unrouted["subscription"], unrouted["depth"]) == ("unrouted", 0)
    plain = await cli("dlq", "queues")
    assert plain.out.splitlines()[0].split() == ["SUBSCRIPTION", "LETTERS", "LAST", "HOUR", "OLDEST", "NEWEST", "QUEUE"]
    assert plain.out.splitlines()[1].startswith("agent.assistant  2        1          1970-01-02 00:00:00Z")


async def test_groups_come_with_the_commands_to_go_on(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "groups")).out == "no dead letters\n"
    for number in range(3):
        await bury(host.bus, f"letter-{number}", reason=f"no disk {number}")
    await bury(host.bus, "letter-x", error="KeyError", reason="no key")
    ran = await cli("dlq", "groups", "agent.assistant")
    assert ran.out.startswith("3 x no disk <n>\nerror     OSError\nhandler   agent\n")
    assert "1 x no key" in ran.out
    groups = (await cli("dlq", "groups", "--json")).lines
    assert [group["count"] for group in groups] == [3, 1]
    assert f"send on   rockbot dlq replay --group {groups[0]['id']}\n" in ran.out
    [command] = [line.partition("rockbot ")[2] for line in ran.out.splitlines() if "dlq list" in line][:1]
    assert len((await cli("--json", *command.split())).lines) == 3


async def test_a_letter_is_explained(cli: Cli, host: FakeHost) -> None:
    await bury(
        host.bus,
        "letter-1",
        body=b'{"inptu": "x"}',
        headers={"k": "v"},
        conversation_id="talk",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    ran = await cli("dlq", "show", "agent.assistant", "letter-1")
    for expected in (
        "reason        no disk",
        "error         OSError",
        "handler       agent",
        "attempts      3",
        f"topic         {TASK}",
        "queue         rockbot.agent.assistant",
        "id            letter-1",
        "conversation  talk",
        "trace         0af7651916cd43dd8448eb211c80319c",
        "headers       k: v",
        "history\nattempt 1: no disk",
        "traceback\nTrace: here",
        'body (14 bytes of JSON)\n{\n  "inptu": "x"\n}',
        "rockbot dlq replay agent.assistant letter-1 --edit",
        "rockbot dlq discard agent.assistant letter-1 --reason",
        "fixed:      ",
        "with care:  --careful lets an edit change ",
    ):
        assert expected in ran.out
    assert (await cli("dlq", "show", "letter")).out == ran.out
    [letter] = (await cli("dlq", "show", "letter-1", "--json")).lines
    assert (letter["id"], letter["body"], letter["headers"]) == ("letter-1", '{"inptu": "x"}', {"k": "v"})
    assert letter["locked"]


@pytest.mark.parametrize("body", [b"", b"\xff\x00\x1b[2J", b'{"a":  1}\n'])
async def test_the_body_alone_is_written_as_it_was_published(cli: Cli, host: FakeHost, body: bytes) -> None:
    await bury(host.bus, "letter-1", body=body)
    ran = await cli("dlq", "show", "letter-1", "--body")
    assert ran.out.encode("utf-8", "surrogateescape") == body if body.isascii() else ran.code == 0
    assert ran.err == ""


async def test_a_binary_letter_is_shown_in_hex(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", body=b"\xff\x1b[2Jx")
    ran = await cli("dlq", "show", "letter-1")
    assert "00000000  ff 1b 5b 32 4a 78" in ran.out
    assert "--file PATH" in ran.out
    assert "\x1b" not in ran.out


async def test_control_characters_of_a_letter_do_not_reach_the_terminal(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", body=b"\x1b]0;owned\x07 \xe2\x80\xae", reason="\x1b[31mred")
    for command in (("show", "letter-1"), ("list",), ("groups",)):
        ran = await cli("dlq", *command)
        assert "\\x1b" in ran.out
        assert "\x1b" not in ran.out
    assert "\\x1b]0;owned\\x07 \\u202e" in (await cli("dlq", "show", "letter-1")).out


async def test_an_id_that_means_nothing_or_too_little_is_told(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1")
    await bury(host.bus, "letter-2")
    await bury(host.bus, "letter-2", queue="unrouted")
    for where, text in (
        (("abcdef",), "no letter 'abcdef' lies in any dead-letter queue"),
        (("let",), "too short"),
        (("letter",), "may mean letter-1, letter-2"),
        (("letter-2",), "(agent.assistant, unrouted): name the queue too"),
        (("no.such", "abcdef"), "no dead-letter queue 'no.such'"),
    ):
        for command in (("show", *where), ("replay", *where)):
            if command[0] == "replay" and len(where) == 2:
                continue
            ran = await cli("dlq", *command, "--json")
            assert (ran.code, ran.error["code"]) == (1, "letter_not_found"), command
            assert text in ran.error["message"]
    assert len(await host.lying()) == 2


async def test_a_topic_nobody_receives_is_shown_where_it_was_kept(cli: Cli) -> None:
    ran = await cli("publish", "agent.task.nobody", "--body", "{}")
    shown = await cli(*ran.err.strip().partition("rockbot ")[2].split())
    assert shown.code == 0
    assert "none: nobody received the topic" in shown.out


async def test_discarded_letters_are_listed_and_shown(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "discarded")).out == "no discarded letters\n"
    await bury(host.bus, "letter-1")
    assert (await cli("dlq", "discard", "letter-1", "--reason", "a test", "--yes")).code == 0
    ran = await cli("dlq", "discarded")
    assert ran.out.splitlines()[1].startswith("letter-1  ")
    shown = await cli("dlq", "show", "discarded", "letter-1")
    assert ": a test" in shown.out
    assert "rockbot dlq restore letter-1" in shown.out
    assert "it was discarded: rockbot dlq show discarded letter-1" in (await cli("dlq", "show", "letter-1")).err
    assert (await cli("dlq", "restore", "discarded", "letter-1")).code == 0
    assert await host.lying() == ["letter-1"]


async def test_the_audit_tells_who_did_what_and_why(cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await cli("dlq", "audit")).out == "nothing was done to letters yet\n"
    monkeypatch.setenv("LOGNAME", "ann")
    await bury(host.bus, "letter-1")
    await bury(host.bus, "letter-2")
    await cli("dlq", "discard", "letter-1", "--reason", "a test", "--yes")
    await cli("dlq", "replay", "letter-2")
    newest, oldest = (await cli("dlq", "audit", "--json")).lines
    assert (newest["action"], newest["actor"]) == ("replay", "ann")
    assert (oldest["action"], oldest["count"], oldest["reason"], oldest["letters"]) == (
        "discard",
        1,
        "a test",
        ["letter-1"],
    )
    assert "a test" in (await cli("dlq", "audit")).out


async def test_a_state_store_that_is_gone_is_one_line(cli: Cli, host: FakeHost) -> None:
    await host.store.close()
    for command in (("list",), ("groups",), ("replay", "letter-1"), ("audit",)):
        ran = await cli("dlq", *command)
        assert (ran.code, len(ran.err.splitlines())) == (1, 1), command
        assert ran.err.startswith("error: ")
        assert "Traceback" not in ran.err


@pytest.fixture(autouse=True)
def nobody_at_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def test_composing_a_host_for_a_command_loads_no_web_framework() -> None:
    """It would take longer than everything else that `dlq list` does."""
    program = "import sys, rockbot.operators.open, rockbot.container; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


async def test_programs_page_through_letters(cli: Cli, host: FakeHost) -> None:
    for number in range(3):
        await bury(host.bus, f"letter-{number}")
    seen: list[str] = []
    after: tuple[str, ...] = ()
    while len(seen) < 3:
        ran = await cli("dlq", "list", "--json", "--limit", "1", *after)
        seen += [line["id"] for line in ran.lines]
        if ran.err:
            told = json.loads(ran.err)
            assert told["total"] == 3
            after = ("--after", told["next"])
    assert (sorted(seen), ran.err) == (["letter-0", "letter-1", "letter-2"], "")
