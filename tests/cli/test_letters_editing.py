"""``dlq replay`` with a change: from options, and in an editor."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost, bury

from rockbot_messaging import MessageEnvelope

TASK = "agent.task.assistant"
BAD = b'{"inptu": "silent"}'


class Terminal(io.StringIO):
    """Somebody at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nobody_at_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


class Editor:
    """An editor that replaces texts, a pair in each session, and keeps what it was shown."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch

    def will(self, *sessions: dict[str, str]) -> None:
        script = self._folder / "editor.py"
        script.write_text(
            f"import pathlib, sys\n"
            f"folder = pathlib.Path({str(self._folder)!r})\n"
            f"sessions = {list(sessions)!r}\n"
            f"number = len(list(folder.glob('shown-*')))\n"
            f"path = pathlib.Path(sys.argv[-1])\n"
            f"content = path.read_bytes()\n"
            f"(folder / f'shown-{{number}}').write_bytes(content)\n"
            f"for old, new in sessions[number].items():\n"
            f"    assert old.encode() in content, old\n"
            f"    content = content.replace(old.encode(), new.encode())\n"
            f"path.write_bytes(content + b'\\n')\n"
        )
        self._monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")

    def shown(self, number: int = 0) -> str:
        return (self._folder / f"shown-{number}").read_text()


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    return Editor(tmp_path, monkeypatch)


async def arrived(host: FakeHost) -> MessageEnvelope:
    """What the agent got."""
    await asyncio.wait_for(host.agent.asked.wait(), 60)
    return host.agent.seen[-1]


async def test_the_body_comes_from_an_option_or_a_file(cli: Cli, host: FakeHost, tmp_path: Path) -> None:
    for number in range(2):
        await bury(host.bus, f"letter-{number}", body=BAD)
    path = tmp_path / "mended"
    path.write_text('{"input": "silent file"}')
    ran = await cli("dlq", "replay", "agent.assistant", "letter-0", "--body", '{"input": "silent"}')
    assert (ran.code, ran.out) == (0, f"sent on letter-0 to {TASK}\n")
    assert (await arrived(host)).body == b'{"input": "silent"}'
    ran = await cli("dlq", "replay", "letter-1", "--file", str(path), "--json")
    assert ran.lines[0]["message_id"] == "letter-1"
    assert [seen.body for seen in host.agent.seen][-1] == b'{"input": "silent file"}'
    assert await host.lying() == []


async def test_headers_are_set_and_dropped(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", body=b'{"input": "silent"}', headers={"a": "1", "b": "2"})
    ran = await cli("dlq", "replay", "letter-1", "--set-header", "a=x=y", "--set-header", "c=", "--unset-header", "b")
    assert ran.code == 0
    assert dict((await arrived(host)).headers) == {"a": "x=y", "c": ""}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--unset-header", "b"), "no header 'b' to drop (it has: a)"),
        (("--set-header", "novalue"), "not of the form k=v"),
        (("--set-header", "x-death=1"), "x-death"),
        (("--reply-to", "amq.gen-1"), "--careful"),
        (("--type", "rockbot.agent.response"), "--careful"),
        (("--body", '{"inptu": 1}'), "input"),
        (("--body", "{"), "JSON"),
        (("--deadline", "soon"), "is no instant"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, tuple) else "",
)
async def test_a_refused_change_says_why_and_leaves_the_letter(
    cli: Cli, host: FakeHost, options: tuple[str, ...], told: str
) -> None:
    await bury(host.bus, "letter-1", body=b'{"input": "silent"}', headers={"a": "1"})
    ran = await cli("dlq", "replay", "letter-1", *options)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert await host.lying() == ["letter-1"]
    assert host.agent.seen == []


async def test_what_is_sensitive_is_changed_with_care(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", body=b'{"input": "silent"}', type="wrong")
    options = ("--type", "rockbot.agent.task", "--reply-to", "somewhere", "--deadline", "2h", "--careful")
    assert (await cli("dlq", "replay", "letter-1", *options)).code == 0
    seen = await arrived(host)
    assert (seen.type, seen.reply_to) == ("rockbot.agent.task", "somewhere")
    assert seen.deadline_ms is not None


async def test_what_is_invalid_is_sent_unchecked(cli: Cli, host: FakeHost) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    assert (await cli("dlq", "replay", "letter-1", "--body", "still bad", "--unchecked")).code == 0
    assert (await arrived(host)).body == b"still bad"


async def test_a_body_is_mended_in_an_editor(cli: Cli, host: FakeHost, editor: Editor) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    editor.will({"inptu": "input"})
    ran = await cli("dlq", "replay", "letter-1", "--edit")
    assert (ran.code, (await arrived(host)).body) == (0, b'{"input": "silent"}')


async def test_a_long_line_of_json_is_spread_for_the_editor(cli: Cli, host: FakeHost, editor: Editor) -> None:
    body = b'{"inptu": "silent", "context": {"long": "' + b"x" * 200 + b'"}}'
    await bury(host.bus, "letter-1", body=body)
    editor.will({'"inptu": "silent",\n': '"input": "silent",\n'})
    ran = await cli("dlq", "replay", "letter-1", "--edit", "--unchecked")
    assert ran.code == 0
    assert (await arrived(host)).body.startswith(b'{\n  "input": "silent",\n')


async def test_headers_are_mended_in_an_editor(cli: Cli, host: FakeHost, editor: Editor) -> None:
    await bury(host.bus, "letter-1", body=BAD, headers={"shop": 'a\x7f"b', "size": 3}, reply_to="old")
    editor.will({'"size" = 3': '"size" = 4\n"new" = true', "inptu": "input", 'reply_to = "old"': 'reply_to = "new"'})
    ran = await cli("dlq", "replay", "letter-1", "--edit", "--headers", "--careful")
    assert ran.code == 0, ran.err
    seen = await arrived(host)
    assert (dict(seen.headers), seen.reply_to, seen.body) == (
        {"shop": 'a\x7f"b', "size": 4, "new": True},
        "new",
        b'{"input": "silent"}',
    )
    shown = editor.shown()
    assert f'# topic = "{TASK}"   (fixed)' in shown
    assert 'reply_to = "old"   # sensitive: needs --careful' in shown


async def test_only_what_changed_in_the_editor_is_changed(cli: Cli, host: FakeHost, editor: Editor) -> None:
    await bury(host.bus, "letter-1", body=BAD, headers={"a": "1"}, reply_to="old", correlation_id="c")
    editor.will({"inptu": "input"})
    assert (await cli("dlq", "replay", "letter-1", "--edit", "--headers")).code == 0
    seen = await arrived(host)
    assert (dict(seen.headers), seen.reply_to, seen.correlation_id) == ({"a": "1"}, "old", "c")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"-------- body": "-------- bdoy"}, "says where the body begins"),
        ({"[headers]": "[headers"}, "no TOML"),
        ({"[headers]": 'topic = "x"\n[headers]'}, "topic cannot be changed"),
        ({'type = "rockbot.agent.task"': "type = 3"}, "type must be text"),
        ({'"a" = "1"': '"a" = [1]'}, "headers.a must be"),
    ],
    ids=["line", "toml", "locked", "type", "list"],
)
async def test_a_broken_document_says_what_is_wrong(
    cli: Cli, host: FakeHost, editor: Editor, change: dict[str, str], told: str
) -> None:
    await bury(host.bus, "letter-1", body=BAD, headers={"a": "1"})
    editor.will(change)
    ran = await cli("dlq", "replay", "letter-1", "--edit", "--headers")
    assert (ran.code, told in ran.err) == (2, True), ran.err
    assert await host.lying() == ["letter-1"]


async def test_an_invalid_edit_without_a_terminal_names_the_place(cli: Cli, host: FakeHost, editor: Editor) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    editor.will({"inptu": "iptnu"})
    ran = await cli("dlq", "replay", "letter-1", "--edit")
    assert (ran.code, "input" in ran.err) == (2, True)
    assert await host.lying() == ["letter-1"]


async def test_an_invalid_edit_goes_back_to_the_editor(
    cli: Cli, host: FakeHost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    editor.will({"inptu": "iptnu"}, {"iptnu": "input"})
    ran = await cli("dlq", "replay", "letter-1", "--edit")
    assert (ran.code, (await arrived(host)).body) == (0, b'{"input": "silent"}\n')
    assert "error: " in ran.err
    assert "Edit it again?" in ran.err
    assert "iptnu" in editor.shown(1)


async def test_an_invalid_edit_can_be_given_up(
    cli: Cli, host: FakeHost, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    editor.will({"inptu": "iptnu"})
    ran = await cli("dlq", "replay", "letter-1", "--edit")
    assert (ran.code, "nothing was sent; the letter stays" in ran.err) == (1, True)
    assert await host.lying() == ["letter-1"]
    [kept] = [line.rpartition(" ")[2] for line in ran.err.splitlines() if "what you wrote is kept in" in line]
    assert "iptnu" in Path(kept).read_text()


async def test_a_newline_that_only_the_editor_added_is_no_change(cli: Cli, host: FakeHost, editor: Editor) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    editor.will({})
    ran = await cli("dlq", "replay", "letter-1", "--edit", "--unchecked")
    assert (ran.code, "nothing was changed" in ran.err) == (1, True)
    assert await host.lying() == ["letter-1"]


async def test_nothing_is_left_behind_where_nobody_sits(
    cli: Cli, host: FakeHost, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    editor.will({"inptu": "iptnu"}, {"inptu": "input"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert (await cli("dlq", "replay", "letter-1", "--edit")).code == 2
    assert (await cli("dlq", "replay", "letter-1", "--edit")).code == 0
    assert list(tmp_path.glob("rockbot-*")) == []


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (None, 2, "set VISUAL or EDITOR"),
        ("true", 1, "was changed; nothing was sent"),
        ("false", 1, "ended with status 1; nothing was sent"),
        ("rm", 1, "left no file behind"),
        ("'unbalanced", 2, "is no command"),
        ("/no/such/editor", 1, "cannot be started"),
    ],
)
async def test_a_letter_nobody_mended_stays(
    cli: Cli, host: FakeHost, monkeypatch: pytest.MonkeyPatch, command: str | None, code: int, text: str
) -> None:
    await bury(host.bus, "letter-1", body=BAD)
    if command:
        monkeypatch.setenv("VISUAL", command)
    ran = await cli("dlq", "replay", "letter-1", "--edit")
    assert ran.code == code
    assert text in ran.err
    assert host.agent.seen == []
    assert await host.lying() == ["letter-1"]


async def test_a_binary_letter_is_edited_as_bytes_but_not_as_a_document(
    cli: Cli, host: FakeHost, editor: Editor
) -> None:
    await bury(host.bus, "letter-1", body=b"\xff\xfeold", type="")
    editor.will({"old": "new"})
    refused = await cli("dlq", "replay", "letter-1", "--edit", "--headers")
    assert (refused.code, "the body is no text" in refused.err) == (2, True)
    ran = await cli("dlq", "replay", "letter-1", "--edit", "--unchecked")
    seen: Any = await arrived(host)
    assert (ran.code, seen.body) == (0, b"\xff\xfenew")
