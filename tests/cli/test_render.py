"""One result, three forms: for a terminal, for a pipe, for a program."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot.cli.letters_views import row_blocks
from rockbot.cli.render import Facts, Grid, Prose, Screen, printable
from rockbot.cli.views import instant, step_line
from rockbot.events.tasks import AgentStatus
from rockbot.letters.models import LetterRow, QueueSummary

GRID = Grid(("NAME", "VALUE"), [("a", "1"), ("longer", "[bold]2[/bold]")], title="Title", empty="nothing")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that can show colours, 100 columns wide."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Both streams on one terminal. (Within a test: pytest puts its own streams back before it.)"""
    stream = Terminal()
    with redirect_stdout(stream), redirect_stderr(stream):
        yield stream


def letter(**changes: object) -> LetterRow:
    fields: dict[str, object] = {
        "group": "g",
        "id": "0123456789abcdef",
        "queue": "agent.assistant",
        "topic": "agent.task.assistant",
        "type": "",
        "reason": "bad",
        "error_type": "",
        "at_ms": 1_767_225_600_000,
        "attempt": 1,
        "body_size": 0,
    }
    return LetterRow.model_validate({**fields, **changes})


def test_a_pipe_gets_aligned_text_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show((), [GRID, Facts((("one", "1"), ("none", ""), ("three", "3"))), Prose("text", "title")])
    assert capsys.readouterr().out == (
        "Title\nNAME    VALUE\na       1\nlonger  [bold]2[/bold]\none    1\nthree  3\ntitle\ntext\n"
    )


def test_a_program_gets_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    queues = [
        QueueSummary(name="a.dlq", subscription="a", depth=1),
        QueueSummary(name="b.dlq", subscription="b", depth=2),
    ]
    screen = Screen(json=True)
    screen.show(queues, [GRID])
    screen.say("not for programs")
    out, err = capsys.readouterr()
    assert [json.loads(line)["depth"] for line in out.splitlines()] == [1, 2]
    assert err == ""


def test_an_empty_result_says_so_to_people_and_nothing_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show([], [Grid(("A",), [], title="Title", empty="nothing")])
    Screen(json=True).show([], [GRID])
    assert capsys.readouterr().out == "nothing\n"


@pytest.mark.usefixtures("colours")
def test_a_terminal_gets_a_table_with_colours() -> None:
    with terminal() as screen:
        Screen().show((), [GRID])
    assert "\x1b[" in screen.getvalue()
    assert "[bold]2[/bold]" in screen.getvalue()


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("way", ["none", "flag", "NO_COLOR", "TERM"])
def test_colours_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    elif way == "TERM":
        monkeypatch.setenv("TERM", "dumb")
    with terminal() as screen:
        Screen(color=way != "flag").say("trouble", "warn")
    assert "trouble" in screen.getvalue()
    assert ("\x1b[33m" in screen.getvalue()) is (way == "none")


@pytest.mark.usefixtures("colours")
def test_a_narrow_terminal_gets_shortened_ids_and_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as narrow:
        Screen().show((), row_blocks([letter()]))
    assert "01234567" in narrow.getvalue()
    assert "012345678" not in narrow.getvalue()
    assert "TOPIC" not in narrow.getvalue()
    monkeypatch.setenv("COLUMNS", "160")
    with terminal() as wide:
        Screen().show((), row_blocks([letter()]))
    assert "TOPIC" in wide.getvalue()


def test_a_pipe_gets_whole_ids(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show((), row_blocks([letter()]))
    assert "0123456789abcdef" in capsys.readouterr().out


def test_a_line_of_a_table_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show((), row_blocks([letter(reason="two\nlines\x1b[31m")]))
    assert capsys.readouterr().out.splitlines()[1].endswith("two lines\\x1b[31m")


@pytest.mark.usefixtures("colours")
def test_a_terminal_never_gets_a_messages_escapes() -> None:
    hostile = "\x1b]0;owned\x07\x9b2J\u202e"
    with terminal() as shown:
        screen = Screen()
        screen.show((), [Prose(hostile, "t"), Facts((("l", hostile),)), Grid(("A",), [(hostile,)])])
        screen.text(hostile)
        screen.say(hostile)
        screen.error("code", hostile, hostile)
    text = shown.getvalue()
    assert text.count("owned") == 7
    assert not {"\x07", "\x9b", "\u202e"} & set(text)
    assert "\x1b]" not in text


def test_an_answer_goes_into_a_pipe_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().text("a\x1b[0mb")
    assert capsys.readouterr().out == "a\x1b[0mb\n"


@given(st.text())
def test_printable_text_has_no_control_characters_but_tab_and_newline(text: str) -> None:
    shown = printable(text)
    assert not {char for char in shown if (ord(char) < 32 and char not in "\t\n") or 127 <= ord(char) < 160}
    assert printable(shown) == shown


def test_errors_are_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().error("code", "what happened", "what to do")
    Screen(json=True).error("code", "what happened")
    plain, hint, as_json = capsys.readouterr().err.splitlines()
    assert (plain, hint) == ("error: what happened", "hint: what to do")
    assert json.loads(as_json) == {"error": {"code": "code", "message": "what happened"}}


def test_instants_of_any_size_can_be_shown() -> None:
    assert instant(1_767_225_600_000) == "2026-01-01 00:00:00Z"
    assert (instant(0), instant(None), instant(10**20)) == ("", "", str(10**20))


def test_a_long_step_is_cut_and_says_so() -> None:
    status = AgentStatus(task_id="t", conversation_id="c", agent="a", kind="tool_result", tool="x", text="y" * 200)
    assert step_line(status)[0].endswith("y [... 40 more]")
