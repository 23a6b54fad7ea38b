"""``tasks``: what became of tasks."""

from __future__ import annotations

import json

from cli.conftest import Cli
from gateway.fake_agent import FakeHost
from history.stored import Talk

from rockbot.cli.tasks import Status
from rockbot.history import ENDED
from rockbot.machines.turn_draft import SHOWN
from rockbot_messaging.canceling import cancel_watch
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder


async def test_the_command_line_lists_and_shows_tasks(cli: Cli, host: FakeHost) -> None:
    talk = Talk(host.store)
    await talk.task("task-1", "What is 6 times 7?", user="ann")
    await talk.use_tool()
    await talk.reply("It is 42.", cost=0.125)
    await talk.task("task-2")
    ran = await cli("tasks", "list")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["TASK", "task-2", "task-1"]
    assert "completed  2.0 s  2      23 in, 10 out" in ran.out
    ran = await cli("tasks", "list", "--status", "open", "--agent", "assistant", "--since", "3650d", "--json")
    assert [line["task_id"] for line in ran.lines] == ["task-2"]
    assert (await cli("tasks", "list", "--before", "2001-01-01")).out == "no such tasks\n"
    ran = await cli("tasks", "list", "--limit", "1")
    assert "go on with --after " in ran.err
    after = ran.err.split("--after ")[1].split()[0]
    assert (await cli("tasks", "list", "--after", after, "--json")).lines[0]["task_id"] == "task-1"
    assert json.loads((await cli("tasks", "list", "--limit", "1", "--json")).err) == {"next": after}
    ran = await cli("tasks", "show", "task-1")
    assert ran.code == 0
    for fact in ("status        completed", "user          ann", "asked\nWhat is 6 times 7?", "answered\nIt is 42."):
        assert fact in ran.out
    ran = await cli("tasks", "show", "none", "--json")
    assert (ran.code, ran.error["code"]) == (1, "task_not_found")


async def test_a_status_that_no_task_can_have_is_wrong_usage(cli: Cli, host: FakeHost) -> None:
    ran = await cli("tasks", "list", "--status", "bogus")
    assert ran.code == 2
    assert "'awaiting_approval'" in ran.err
    assert {status.value for status in Status} == {"open", "ended", "accepted", *SHOWN.values(), *ENDED}


async def test_cancelling_says_what_is_known_of_the_task(cli: Cli, host: FakeHost) -> None:
    heard = Recorder()
    await host.bus.subscriber.subscribe(cancel_watch(), heard)
    await host.bus.declare([WorkSubscription(name="steps", patterns=("agent.step.assistant",))])
    talk = Talk(host.store)
    await talk.task("task-1", "What is 6 times 7?")
    ran = await cli("turn", "cancel", "task-1")
    assert (ran.code, ran.out, ran.err) == (0, "asked every process to end task task-1\n", "")
    await talk.reply("It is 42.")
    assert "it had ended before: completed" in (await cli("turn", "cancel", "task-1")).err
    ran = await cli("turn", "cancel", "tusk-1")
    assert (ran.code, ran.err) == (0, "no such task was begun: check the id, unless it is still in a queue\n")
