"""Commands against a running host: results on standard output, talk on standard error, exit codes as documented."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost

TASK = "agent.task.assistant"


async def dead(host: FakeHost, body: bytes = b"not json") -> str:
    """The id of a message that has become a letter."""
    message = await host.operator.publish(TASK, body)
    async with asyncio.timeout(5):
        while not any(item.id == message.message_id for item in await host.operator.letters("agent.assistant")):
            await asyncio.sleep(0)
    return message.message_id


async def test_ask_prints_the_answer_alone_and_tells_the_steps_aside(cli: Cli) -> None:
    ran = await cli("ask", "assistant", "hello")
    assert (ran.code, ran.out) == (0, "HELLO\n")
    assert ran.err.splitlines() == ["  .. accepted", '  -> run_python {"code": "1"}']


async def test_ask_as_json_gives_models_on_both_streams(cli: Cli) -> None:
    ran = await cli("ask", "assistant", "hello", "--json")
    [answer] = ran.lines
    assert (ran.code, answer["status"], answer["output"]) == (0, "completed", "HELLO")
    assert '"kind":"accepted"' in ran.err


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("max_tokens", "the answer is cut off: the model reached its limit of output tokens"),
        ("other", "the model did not end its answer by itself: other"),
    ],
)
async def test_an_answer_that_the_model_did_not_end_itself_is_told_aside(cli: Cli, reason: str, told: str) -> None:
    ran = await cli("ask", "assistant", f"stop:{reason}")
    assert (ran.code, ran.out) == (0, f"STOP:{reason.upper()}\n")
    assert ran.err.splitlines()[-1].startswith(told)
    ran = await cli("ask", "assistant", f"stop:{reason}", "--json")
    assert ran.lines[0]["stop_reason"] == reason
    assert told not in ran.err


async def test_a_failed_task_is_exit_code_1_and_says_why(cli: Cli) -> None:
    ran = await cli("ask", "assistant", "fail")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[-1] == "task failed: too much"


async def test_no_answer_in_time_is_exit_code_5(cli: Cli) -> None:
    ran = await cli("ask", "assistant", "silent", "--timeout", "0.05")
    assert ran.code == 5
    assert ran.err.startswith("error: no answer from agent 'assistant' within 0.05 s")


async def test_ask_reads_its_text_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert (await cli("ask", "assistant", "-")).out == "FROM A PIPE\n"


async def test_publish_takes_its_body_from_text_file_or_standard_input(
    cli: Cli, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"\xff\x00file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xfestdin")))
    assert (await cli("publish", TASK, "--body", '{"input": "x"}', "--header", "a=b=c")).code == 0
    assert (await cli("publish", TASK, "--file", str(path))).code == 0
    assert (await cli("publish", TASK, "-")).code == 0
    assert [seen.body for seen in host.agent.seen] == [b'{"input": "x"}', b"\xff\x00file", b"\xfestdin"]
    assert host.agent.seen[0].headers["a"] == "b=c"


async def test_publish_tells_the_id_it_gave(cli: Cli, host: FakeHost) -> None:
    ran = await cli("--json", "publish", TASK, "--body", "{}")
    assert ran.lines[0]["message_id"] == host.agent.seen[0].message_id
    plain = await cli("publish", TASK, "--body", "{}")
    assert plain.out == f"published {host.agent.seen[1].message_id} to {TASK}\n"


async def test_a_topic_nobody_receives_is_a_failure_with_the_way_out(cli: Cli) -> None:
    ran = await cli("publish", "agent.task.nobody", "--body", "{}")
    assert ran.code == 1
    command = ran.err.strip().partition("rockbot ")[2].split()
    shown = await cli(*command)
    assert shown.code == 0
    assert "agent.task.nobody" in shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", TASK),
        ("publish", TASK, "--body", "a", "--file", "b"),
        ("publish", TASK, "-", "--file", "b"),
        ("publish", TASK, "surplus"),
        ("publish", TASK, "--file", "missing"),
        ("publish", TASK, "--body", "a", "--header", "novalue"),
        ("publish", TASK, "--body", "a", "--header", "x-death=1"),
        ("publish", "a b", "--body", "a"),
        ("ask", "a b", "text"),
        ("ask", "assistant", ""),
        ("dlq", "show"),
        ("dlq", "show", "a", "b", "c"),
        ("dlq", "replay", "abcdef", "--edit", "--body", "x"),
        ("dlq", "discard", "abcdef"),
        ("dlq", "discard", "abcdef", "--reason", " "),
    ],
    ids=" ".join,
)
async def test_wrong_usage_is_exit_code_2_and_does_nothing(
    cli: Cli, host: FakeHost, arguments: tuple[str, ...]
) -> None:
    ran = await cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert host.agent.seen == []


async def test_dead_letters_are_listed_with_their_reason(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "list")).out == "no dead letters\n"
    letter_id = await dead(host)
    ran = await cli("dlq", "list")
    header, row = ran.out.splitlines()
    assert header.split() == ["QUEUE", "ID", "DIED", "TOPIC", "ATTEMPT", "REASON"]
    assert row.startswith(f"agent.assistant  {letter_id}  ")
    assert row.endswith("the body is no rockbot.agent.task")
    [letter] = (await cli("dlq", "list", "agent.assistant", "--json")).lines
    assert (letter["id"], letter["queue"]) == (letter_id, "agent.assistant")


async def test_dlq_list_fails_on_request_when_there_is_a_letter(cli: Cli, host: FakeHost) -> None:
    assert (await cli("dlq", "list", "--fail-if-any")).code == 0
    await dead(host)
    assert (await cli("dlq", "list", "--fail-if-any")).code == 6


async def test_dlq_queues_counts(cli: Cli, host: FakeHost) -> None:
    await dead(host)
    assert (await cli("dlq", "queues", "--json")).lines == [
        {"name": "rockbot.agent.assistant.dlq", "subscription": "agent.assistant", "depth": 1},
        {"name": "rockbot.unrouted", "subscription": "unrouted", "depth": 0},
    ]


async def test_a_letter_is_explained(cli: Cli, host: FakeHost) -> None:
    letter_id = await dead(host, b'{"inptu": "x"}')
    ran = await cli("dlq", "show", "agent.assistant", letter_id)
    for expected in (
        "reason     the body is no rockbot.agent.task",
        "error      InvalidEvent",
        f"topic      {TASK}",
        f"id         {letter_id}",
        "traceback\nTrace: here",
        'body (14 bytes of JSON)\n{\n  "inptu": "x"\n}',
        f"rockbot dlq replay agent.assistant {letter_id} --edit",
    ):
        assert expected in ran.out
    assert (await cli("dlq", "show", letter_id[:6])).out == ran.out


async def test_a_binary_letter_is_shown_in_hex(cli: Cli, host: FakeHost) -> None:
    letter_id = await dead(host, b"\xff\x1b[2Jx")
    ran = await cli("dlq", "show", letter_id)
    assert "00000000  ff 1b 5b 32 4a 78" in ran.out
    assert ".." in ran.out
    assert "\x1b" not in ran.out


async def test_control_characters_of_a_letter_do_not_reach_the_terminal(cli: Cli, host: FakeHost) -> None:
    letter_id = await dead(host, b"\x1b]0;owned\x07 \xe2\x80\xae")
    ran = await cli("dlq", "show", letter_id)
    assert "\\x1b]0;owned\\x07 \\u202e" in ran.out
    assert "\x1b" not in ran.out


async def test_a_mended_letter_is_sent_on(cli: Cli, host: FakeHost, tmp_path: Path) -> None:
    first, second, third = [await dead(host, f"bad {number}".encode()) for number in range(3)]
    path = tmp_path / "mended"
    path.write_text('{"input": "from a file"}')
    ran = await cli("dlq", "replay", "agent.assistant", first, "--body", '{"input": "mended"}')
    assert (ran.code, ran.out) == (0, f"sent on {first} to {TASK}\n")
    assert (await cli("dlq", "replay", second, "--file", str(path))).code == 0
    assert host.agent.seen[-2].body == b'{"input": "mended"}'
    assert host.agent.seen[-1].body == b'{"input": "from a file"}'
    assert [letter.id for letter in await host.operator.letters("agent.assistant")] == [third]


async def test_a_letter_is_mended_in_an_editor(
    cli: Cli, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter_id = await dead(host, b'{"inptu": "x"}')
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n"
        "path.write_text(path.read_text().replace('inptu', 'input') + '\\n')\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    ran = await cli("dlq", "replay", letter_id, "--edit")
    assert (ran.code, host.agent.seen[-1].body) == (0, b'{"input": "x"}')


@pytest.mark.parametrize(
    ("editor", "code", "text"),
    [
        (None, 2, "set VISUAL or EDITOR"),
        ("true", 1, "was not changed; nothing was sent"),
        ("false", 1, "ended with status 1; nothing was sent"),
        ("/no/such/editor", 1, "cannot be started"),
    ],
)
async def test_a_letter_nobody_mended_stays(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch, editor: str | None, code: int, text: str
) -> None:
    letter_id = await dead(host)
    if editor:
        monkeypatch.setenv("VISUAL", editor)
    ran = await cli("dlq", "replay", letter_id, "--edit")
    assert ran.code == code
    assert text in ran.err
    assert len(host.agent.seen) == 1
    assert len(await host.operator.letters("agent.assistant")) == 1


async def test_discarding_needs_a_yes(cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    letter_id = await dead(host)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    refused = await cli("dlq", "discard", letter_id, "--reason", "a test")
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    ran = await cli("dlq", "discard", letter_id, "--reason", "a test", "--yes")
    assert (ran.code, ran.out) == (0, f"discarded {letter_id} of agent.assistant\n")
    assert await host.operator.letters("agent.assistant") == []


async def test_an_id_that_means_nothing_or_too_little_is_told(cli: Cli, host: FakeHost) -> None:
    await dead(host)
    for where, text in (
        (("abcdef",), "no letter 'abcdef' lies in any dead-letter queue"),
        (("abc",), "too short"),
        (("no.such", "abcdef"), "no dead-letter queue 'no.such'"),
    ):
        ran = await cli("dlq", "show", *where, "--json")
        assert (ran.code, ran.error["code"]) == (1, "letter_not_found")
        assert text in ran.error["message"]


async def test_a_letter_in_two_queues_asks_for_the_queue(cli: Cli, host: FakeHost) -> None:
    message = host.agent.seen
    await dead(host)
    await host.bus.publisher.publish(message[0].replace(topic="no.such"), door=_public())
    ran = await cli("dlq", "show", message[0].message_id)
    assert ran.code == 1
    assert "(agent.assistant, unrouted): name the queue too" in ran.err


async def test_the_pipeline_of_the_host_is_printed(cli: Cli) -> None:
    ran = await cli("pipeline")
    assert "rockbot.agent.task  logging > agent" in ran.out
    assert ran.err == ""
    [found] = (await cli("pipeline", "--json")).lines
    assert found["subscriptions"][0]["name"] == "agent.assistant"


async def test_the_doctor_ends_well_with_a_host_and_warns_strictly_on_request(cli: Cli, host: FakeHost) -> None:
    assert (await cli("doctor")).code == 0
    await dead(host)
    ran = await cli("doctor", "--json")
    assert (ran.code, {line["status"] for line in ran.lines}) == (0, {"ok", "warn"})
    strict = await cli("doctor", "--strict")
    assert strict.code == 6
    assert "-> rockbot dlq list agent.assistant" in strict.out


def _public():  # type: ignore[no-untyped-def]
    from rockbot_messaging import Door

    return Door.PUBLIC
