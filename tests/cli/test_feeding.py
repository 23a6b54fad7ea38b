"""``up --feed``: a file of tasks, and what became of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gateway.fake_agent import FakeHost

from rockbot.cli.feeding import Feeder
from rockbot.cli.invocation import Invocation

LINES = """\
{"input": "hello"}

{"agent": "assistant", "input": "fail", "conversation_id": "talk"}
{"topic": "agent.task.assistant", "body": {"inptu": 1}}
this is not JSON
{"input": "stall"}
"""


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text(LINES)
    return path


def feeder(host: FakeHost, *, as_json: bool = False) -> Feeder:
    call = Invocation()
    call.take({"as_json": as_json})
    return Feeder(call, host.operator, call.settings())


@pytest.mark.parametrize("at_once", [False, True])
async def test_every_line_is_done_and_the_dead_letters_are_told(
    host: FakeHost, feed: Path, capsys: pytest.CaptureFixture[str], at_once: bool
) -> None:
    assert await feeder(host).run(feed, at_once=at_once) == 0
    out, err = capsys.readouterr()
    letters = await host.lying()
    assert len(letters) == 2
    assert "HELLO\n" in out
    for letter_id in letters:
        assert f"rockbot dlq replay agent.assistant {letter_id} --edit" in out
    assert out.count("the body is no rockbot.agent.task") == 2
    assert "[3] this is not JSON" not in err
    for told in ("task failed: too much", "run_python", "waits in tools.dlq: no disk", "2 dead letters"):
        assert told in err
    bodies = {seen.body for seen in host.agent.seen}
    assert {b'{"inptu": 1}', b"this is not JSON"} <= bodies
    assert any(seen.conversation_id == "talk" for seen in host.agent.seen)


async def test_lines_are_done_in_their_order(host: FakeHost, feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await feeder(host).run(feed, at_once=False)
    assert [seen.body for seen in host.agent.seen][2:4] == [b'{"inptu": 1}', b"this is not JSON"]
    assert "[4] this is not JSON" in capsys.readouterr().err


async def test_letters_of_an_earlier_run_are_not_told_again(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.write_text("not json")
    good.write_text('{"input": "fine"}')
    await feeder(host).run(bad, at_once=False)
    capsys.readouterr()
    assert await feeder(host).run(good, at_once=False) == 0
    out, err = capsys.readouterr()
    assert out == "FINE\n"
    assert err.splitlines()[-1] == "no dead letters"


async def test_a_line_that_is_refused_does_not_stop_the_next_one(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"agent": "nobody", "input": "x"}\n{"topic": "a b", "body": "x"}\n{"input": "fine"}\n')
    assert await feeder(host).run(path, at_once=False) == 0
    out, err = capsys.readouterr()
    assert "FINE\n" in out
    assert "no running host has an agent 'nobody'" in err
    assert "'a b' is not a legal topic" in err
    assert "rockbot dlq replay unrouted" in out


async def test_programs_get_answers_and_letters_as_lines(
    host: FakeHost, feed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await feeder(host, as_json=True).run(feed, at_once=False)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("status") for line in lines[:2]] == ["completed", "failed"]
    assert {line["reason"] for line in lines[2:]} == {"the body is no rockbot.agent.task"}
