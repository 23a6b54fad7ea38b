"""``rockbot up`` as a process of its own: everything in one, operated from outside, stopped by a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SETTINGS = 'handlers = ["logging", "deadline", "agent", "llm"]\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="rb"))
    (path / "rockbot.toml").write_text(SETTINGS)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def rockbot(folder: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a command in the folder."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rockbot.cli",
                "--socket",
                str(folder / "s"),
                "--state",
                "sqlite:///state.db",
                *arguments,
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(folder)},
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def until(process: subprocess.Popen[str], text: str) -> None:
    """Wait for a line on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


def test_a_host_is_operated_through_its_socket_and_stops_on_sigterm(
    rockbot: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    host = rockbot("up")
    try:
        until(host, "RockBot is up")
        code, out, err = finish(rockbot("ask", "assistant", "Hello! Who are you?"))
        assert (code, "offline" in out) == (0, True), err
        assert ".. asking scripted/demo" in err
        code, out, _ = finish(rockbot("publish", "agent.task.assistant", "--body", "not json", "--json"))
        letter_id = json.loads(out)["message_id"]
        code, out, _ = finish(rockbot("dlq", "show", "agent.assistant", letter_id))
        assert (code, "Invalid JSON" in out) == (0, True)
        code, out, _ = finish(rockbot("dlq", "replay", letter_id, "--body", '{"input": "hello"}'))
        assert code == 0
        code, _, err = finish(rockbot("up"))
        assert (code, "another host listens" in err) == (1, True)
        code, out, err = finish(rockbot("doctor"))
        assert code == 0, out + err
    finally:
        host.send_signal(signal.SIGTERM)
    assert finish(host)[0] == 0
    assert not (folder / "s").exists()


def test_a_feed_is_done_and_its_dead_letter_survives(
    rockbot: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    (folder / "tasks.jsonl").write_text('{"input": "hello"}\nnot json\n')
    code, out, err = finish(rockbot("up", "--feed", "tasks.jsonl"))
    assert code == 0, err
    assert "offline" in out
    command = out.partition("read it")[2].split("\n")[0].split()[1:]
    host = rockbot("up")
    try:
        until(host, "RockBot is up")
        code, out, err = finish(rockbot(*command))
        assert (code, "not json" in out) == (0, True), err
    finally:
        host.send_signal(signal.SIGINT)
    assert finish(host)[0] == 0


def test_a_feed_that_is_interrupted_ends_with_130_and_leaves_no_socket(
    rockbot: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    # No handler takes model calls, so the task waits until somebody has had enough.
    (folder / "rockbot.toml").write_text('handlers = ["logging", "agent"]\nmodel = "scripted/demo"\n')
    (folder / "tasks.jsonl").write_text('{"input": "hello"}\n')
    host = rockbot("up", "--feed", "tasks.jsonl")
    until(host, "accepted")
    host.send_signal(signal.SIGINT)
    code, out, err = finish(host)
    assert (code, out) == (130, ""), err
    assert not (folder / "s").exists()


def test_asking_can_be_interrupted(rockbot: Callable[..., subprocess.Popen[str]], folder: Path) -> None:
    (folder / "rockbot.toml").write_text('handlers = ["logging", "agent"]\n')
    host = rockbot("up")
    try:
        until(host, "RockBot is up")
        asking = rockbot("ask", "assistant", "hello")
        until(asking, "asking scripted/demo")
        asking.send_signal(signal.SIGINT)
        code, out, err = finish(asking)
        assert (code, out, err) == (130, "", "error: interrupted\n")
    finally:
        host.send_signal(signal.SIGTERM)
    assert finish(host)[0] == 0


def test_once_starts_looks_and_stops(rockbot: Callable[..., subprocess.Popen[str]]) -> None:
    code, _, err = finish(rockbot("up", "--once"))
    assert (code, "RockBot is up" in err) == (0, True)
