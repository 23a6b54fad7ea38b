"""Commands against a running host: results on standard output, talk on standard error, exit codes as documented."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from cli.conftest import Cli
from gateway.fake_agent import FakeHost

from rockbot.cli.render import Screen
from rockbot.cli.views import pipeline_blocks
from rockbot.operators.models import Pipeline
from rockbot_messaging import RetryPolicy, WorkSubscription
from rockbot_messaging.retries import RetryRule
from rockbot_messaging.subscriptions import Lane, Ordered, Rate

TASK = "agent.task.assistant"


async def dead(host: FakeHost, body: bytes = b"not json") -> str:
    """The id of a message that has become a letter."""
    message = await host.operator.publish(TASK, body)
    await host.until_dead(message.message_id)
    return message.message_id


async def test_ask_prints_what_the_model_says_while_it_says_it_and_no_answer_twice(cli: Cli) -> None:
    ran = await cli("ask", "assistant", "speak", "--stream")
    assert ran.code == 0
    assert ran.out == "SOMETHING ELSE\nSPEAK\n"
    assert "the model begins its reply anew" in ran.err
    assert (await cli("ask", "assistant", "speak")).out == "SPEAK\n"


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


async def test_the_pipeline_of_the_host_is_printed(cli: Cli) -> None:
    ran = await cli("pipeline")
    assert "rockbot.agent.task  logging > agent" in ran.out
    assert ran.err == ""
    [found] = (await cli("pipeline", "--json")).lines
    [subscription] = found["subscriptions"]
    assert (subscription["name"], subscription["retry"]) == ("agent.assistant", "1 attempt; then a dead letter")
    assert subscription["retry_table"][0].startswith("errors")
    assert subscription["guard"].startswith("after 10 failures in a row")


def test_a_pipeline_shows_the_retry_table_order_lane_and_rate_of_each_subscription(
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = WorkSubscription(
        name="orders",
        patterns=("order.*",),
        retry=RetryPolicy(max_attempts=3, rules=(RetryRule(errors=("KeyError",), max_attempts=1),)),
        ordered=Ordered(by="header:customer", on_dead="skip"),
        lane=Lane(group="models", rank=2, slots=8),
        rate=Rate(per_second=2.5, burst=4),
        guard=None,
        remember=900,
    )
    same = WorkSubscription(name="more", patterns=("more.*",), retry=work.retry)
    pipeline = Pipeline.describe(chain=[], failures=[], subscriptions=[work, same])
    Screen().show(pipeline, pipeline_blocks(pipeline))
    out = capsys.readouterr().out
    for told in (
        "Retries of orders, more\nerrors    | attempts | waits",
        "KeyError  | 1 ",
        "by header:customer; a dead letter is skipped",
        "rank 2 of models, 8 slots together, a rank up every 30 s",
        "2.5 a second, 4 at once",
        "15 min",
    ):
        assert told in out


async def test_the_doctor_ends_well_with_a_host_and_warns_strictly_on_request(cli: Cli, host: FakeHost) -> None:
    assert (await cli("doctor")).code == 0
    await dead(host)
    ran = await cli("doctor", "--json")
    assert (ran.code, {line["status"] for line in ran.lines}) == (0, {"ok", "warn"})
    strict = await cli("doctor", "--strict")
    assert strict.code == 6
    assert "-> rockbot dlq list agent.assistant" in strict.out


async def test_the_doctor_fails_on_what_it_is_told_to(cli: Cli, host: FakeHost) -> None:
    assert (await cli("doctor", "--fail-on", "dead-letters")).code == 0
    await dead(host)
    ran = await cli("doctor", "--fail-on", "dead-letters")
    assert ran.code == 6
    assert "1 in rockbot.agent.assistant.dlq, 1 in the last hour, the oldest since" in ran.out
    assert (await cli("doctor", "--fail-on", "warnings")).code == 6
    assert (await cli("doctor")).code == 0
    assert (await cli("doctor", "--fail-on", "everything")).code == 2
