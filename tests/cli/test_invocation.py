"""The command line without a host: options, errors, exit codes, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Ran

from rockbot.cli.invocation import Invocation

Alone = Callable[..., Ran]

#: What no start may load: libraries of single commands and of the host.
HEAVY = (
    "fastapi",
    "starlette",
    "uvicorn",
    "httpx2",
    "aio_pika",
    "anthropic",
    "wasmtime",
    "dependency_injector",
    "asyncio",
)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )


@pytest.mark.parametrize("arguments", [["--help"], ["dlq", "-h"], ["ask", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from rockbot.cli.main import run; code = run(sys.argv[1:]);"
        f" print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = python("-c", program, *arguments)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert done.stdout


def test_a_command_loads_its_own_part_alone_and_each_part_is_found_by_its_words() -> None:
    program = (
        "import sys, typer; from importlib import import_module; from rockbot.cli import main;"
        " main.run(['--config', 'none.toml', 'costs', '-h']); loaded = {*sys.modules};"
        " print([part for part in main._PARTS if f'rockbot.cli.{part}' in loaded], file=sys.stderr)\n"
        "for part, words in main._PARTS.items():\n"
        "    app = typer.Typer(); import_module(f'rockbot.cli.{part}').register(app)\n"
        "    assert {*(c.name for c in app.registered_commands), *(g.name for g in app.registered_groups)} == {*words}, part"
    )
    done = python("-c", program)
    assert (done.returncode, done.stderr.strip()) == (0, "['costs']")


def test_help_tells_the_exit_codes(alone: Alone) -> None:
    ran = alone("-h")
    assert ran.code == 0
    assert "Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 settings invalid" in " ".join(ran.out.split())


def test_no_arguments_show_the_help(alone: Alone) -> None:
    ran = alone()
    assert ran.code == 2
    assert "Usage: rockbot" in ran.out + ran.err


@pytest.mark.parametrize(
    "arguments",
    [["dlq", "list"], ["ask", "assistant", "hi"], ["publish", "a.b", "--body", "x"], ["dlq", "show", "abcdef"]],
    ids=" ".join,
)
def test_without_a_host_commands_say_how_to_start_one(alone: Alone, tmp_path: Path, arguments: list[str]) -> None:
    ran = alone(*arguments)
    socket = tmp_path / "state" / "rockbot" / "rockbot.sock"
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == f"error: no running host at {socket}: start one with `rockbot up`\n"


@pytest.mark.parametrize(
    "arguments",
    [["--json", "dlq", "list"], ["dlq", "--json", "list"], ["dlq", "list", "--json"]],
    ids=" ".join,
)
def test_global_options_may_stand_anywhere(alone: Alone, arguments: list[str]) -> None:
    ran = alone(*arguments)
    assert (ran.code, ran.error["code"]) == (4, "host_unreachable")


def test_wrong_usage_is_json_too(alone: Alone) -> None:
    ran = alone("--json", "ask")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "agent" in ran.error["message"].lower()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["dlq", "list", "--nonsense"], ["ask", "a", "b", "--timeout", "x"]]
)
def test_wrong_usage_names_the_help(alone: Alone, arguments: list[str]) -> None:
    ran = alone(*arguments)
    assert (ran.code, ran.out) == (2, "")
    error, hint = ran.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: see `rockbot ")


def test_invalid_settings_are_exit_code_3_and_name_the_key(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "rockbot.toml").write_text("naemspace = 'x'\n")
    ran = alone("config", "check")
    assert ran.code == 3
    assert "unknown setting 'naemspace' (from rockbot.toml, line 1); did you mean 'namespace'?" in ran.err
    assert alone("--config", "missing.toml", "config", "show").code == 3


def test_flags_go_before_the_environment_and_that_before_the_file(
    alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rockbot.toml").write_text('model = "file/m"\nnamespace = "from-file"\nsource = "file"\n')
    monkeypatch.setenv("ROCKBOT_MODEL", "env/m")
    monkeypatch.setenv("ROCKBOT_SOURCE", "env")
    shown = json.loads(alone("--json", "config", "show").out)
    assert (shown["model"], shown["source"], shown["namespace"]) == ("env/m", "env", "from-file")
    assert json.loads(alone("config", "show", "--model", "flag/m", "--json").out)["model"] == "flag/m"


def test_secrets_are_masked(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCKBOT_BROKER_URL", "amqp://user:hunter2@127.0.0.1/")
    monkeypatch.setenv("ROCKBOT_ANTHROPIC__API_KEY", "sk-secret-key")
    for arguments in (["config", "show"], ["--json", "config", "show"]):
        ran = alone(*arguments)
        assert ran.code == 0
        assert "127.0.0.1" in ran.out
        assert "hunter2" not in ran.out
        assert "sk-secret" not in ran.out


def test_an_unreachable_broker_is_exit_code_4_without_its_password(alone: Alone) -> None:
    ran = alone("--broker", "amqp://user:hunter2@127.0.0.1:1/", "publish", "a.b", "--body", "x")
    assert ran.code == 4
    assert "127.0.0.1:1" in ran.err
    assert "hunter2" not in ran.err


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("tasks list", 0, "no such tasks"),
        ("turn list", 0, "no such tasks"),
        ("tasks show abcdef", 1, "no task 'abcdef' is known"),
        ("turn show abcdef", 1, "there is no task 'abcdef'"),
        ("turn timeline abcdef", 1, "there is no task 'abcdef'"),
        ("turn fork abcdef", 1, "there is no conversation 'abcdef'"),
        ("approvals list", 0, "nobody is asked anything"),
        ("approvals show abcdef", 1, "nothing is asked under 'abcdef'"),
        ("costs", 0, ""),
    ],
)
def test_what_lies_in_the_state_store_is_told_while_the_broker_is_away(
    alone: Alone, tmp_path: Path, command: str, code: int, said: str
) -> None:
    state = f"sqlite:///{tmp_path}/state.db"
    ran = alone("--broker", "amqp://127.0.0.1:1/", "--state", state, *command.split())
    assert ran.code == code, ran.err
    assert said in ran.out + ran.err


def test_an_unknown_broker_scheme_is_exit_code_3(alone: Alone) -> None:
    ran = alone("--broker", "kafka://host", "publish", "a.b", "--body", "x")
    assert (ran.code, "kafka" in ran.err) == (3, True)


@pytest.mark.parametrize("command", ["run", "scripts"])
def test_a_process_for_a_broker_needs_a_broker(alone: Alone, command: str) -> None:
    ran = alone(command)
    assert ran.code == 3
    assert "needs a broker" in ran.err


def test_up_refuses_a_broker_and_a_missing_feed(alone: Alone) -> None:
    assert alone("up", "--broker", "amqp://127.0.0.1/").code == 3
    ran = alone("up", "--feed", "missing.jsonl")
    assert (ran.code, "missing.jsonl" in ran.err) == (2, True)


def test_run_knows_only_installed_handlers(alone: Alone) -> None:
    ran = alone("--broker", "amqp://127.0.0.1:1/", "run", "--handlers", "logging, nonsense")
    assert (ran.code, "'nonsense'" in ran.err) == (3, True)


def test_the_doctor_without_a_host_says_so_and_ends_with_6(alone: Alone) -> None:
    ran = alone("doctor", "--json")
    found = {line["name"]: line["status"] for line in ran.lines}
    assert (ran.code, found["host"], found["version"], found["model"]) == (6, "fail", "ok", "ok")


def test_the_pipeline_without_a_host_is_that_of_the_settings(alone: Alone) -> None:
    ran = alone("pipeline", "--json")
    assert ran.code == 0
    assert any(entry["event"] == "rockbot.agent.task" for entry in ran.lines[0]["chain"])


def test_debug_shows_the_traceback_and_nothing_else_does(alone: Alone) -> None:
    assert "Traceback" not in alone("dlq", "list").err
    ran = alone("dlq", "list", "--debug")
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: no running host")


def test_a_reader_that_stops_reading_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m rockbot.cli config show | true", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def test_a_command_that_is_to_be_typed_again_shows_the_state_without_its_password() -> None:
    call = Invocation()
    call.take({"socket": Path("run.sock"), "state": "postgresql://me:canary@db:5432/rockbot"})
    assert "canary" not in call.program
    assert "--socket run.sock" in call.program
    assert "@db:5432/rockbot" in call.program


def test_proposed_commands_begin_with_what_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "rockbot").write_text("#!/bin/sh\n")
        (tmp_path / place / "rockbot").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    call = Invocation()
    monkeypatch.setattr(sys, "argv", ["here/rockbot"])
    for path, typed in (("/nowhere", "here/rockbot"), ("elsewhere", "here/rockbot"), ("here", "rockbot")):
        monkeypatch.setenv("PATH", path)
        assert call.program == typed
    for argv in ("rockbot", "/usr/bin/pytest", "here/no/rockbot"):
        monkeypatch.setattr(sys, "argv", [argv])
        assert call.program == "rockbot"
