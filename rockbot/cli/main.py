"""The entry point: commands put together, and every error turned into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer

from rockbot.cli.invocation import Invocation, command_word, global_parameters, present
from rockbot.cli.render import Screen

__all__ = ["main", "run"]

_EPILOG: Final = "\n\n".join(
    (
        "Examples:",
        "rockbot up --feed examples/tasks.jsonl",
        'rockbot ask assistant "What is 6 times 7?"',
        "rockbot --broker amqp://user:secret@host/ dlq list",
        (
            "Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 settings invalid; 4 host or broker unreachable;"
            " 5 no answer in time; 6 problems found; 130 interrupted."
        ),
    )
)

_INTERRUPTED: Final = 130

#: Modules of this package in the order of the help, and the words that each registers.
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "processes": ("up", "run", "scripts"),
    "messages": ("publish", "ask"),
    "tasks": ("tasks",),
    "turns": ("turn",),
    "approvals": ("approvals",),
    "letters": ("dlq",),
    "inspecting": ("pipeline", "doctor", "config"),
    "state": ("state",),
    "agents": ("agents",),
    "models": ("models",),
    "costs": ("costs",),
    "tools": ("tools", "policy"),
    "contract": ("contract",),
    "topology": ("topology",),
}


def _version(wanted: bool) -> None:
    if wanted:
        from rockbot import __version__

        sys.stdout.write(f"rockbot {__version__}\n")
        raise typer.Exit


def _root(ctx: typer.Context, **given: Any) -> None:
    """Run and operate an event-driven agent host."""
    given.pop("version")
    call = ctx.ensure_object(Invocation)
    call.take(given)


def _assemble(arguments: Sequence[str]) -> typer.Typer:
    """All commands, or, when one is called by its name, just the part that it belongs to: building all of them takes longer
    than most commands do."""
    import inspect

    app = typer.Typer(
        name="rockbot",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    version = inspect.Parameter(
        "version",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
        ],
    )
    present(_root, _root, [*global_parameters(hidden=False), version])
    app.callback()(_root)
    word = command_word(arguments)
    called = [part for part, words in _PARTS.items() if word in words]
    for part in called or _PARTS:
        import_module(f"rockbot.cli.{part}").register(app)
    return app


def main() -> None:
    """The console script."""
    if os.getpid() == 1:
        # Of what it does not handle, the first process of a container is told nothing; it could only be killed.
        signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run(sys.argv[1:]))


def _terminated(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code and raises nothing."""
    call = Invocation()
    if "--json" in arguments:
        call.take({"as_json": True})  # so that wrong usage, found out before any option is read, is JSON too
    try:
        result = typer.main.get_command(_assemble(arguments)).main(
            args=list(arguments), prog_name="rockbot", standalone_mode=False, obj=call
        )
        code = result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.TyperException as exc:
        return _usage(call.screen, exc)
    except Exception as exc:
        return _failed(call, exc)
    if code == _INTERRUPTED:
        call.screen.error("interrupted", "interrupted")
    return code


def _usage(screen: Screen, exc: typer.TyperException) -> int:
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "rockbot"
    if type(exc).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{exc.format_message()}\n".lstrip("\n"))
        return 2
    screen.error("usage", exc.format_message(), f"see `{path} --help`")
    return exc.exit_code or 2


def _failed(call: Invocation, exc: Exception) -> int:
    from rockbot.operators.faults import ExitCode, fault_of

    if call.debug:
        import traceback

        traceback.print_exc()
    inner = _unwrapped(exc)
    fault = fault_of(inner)
    if fault.code == "internal":
        hint = "" if call.debug else "run it again with --debug for the traceback"
        call.screen.error("internal", f"unexpected {type(inner).__name__}: {inner}", hint)
        return ExitCode.FAILURE
    call.screen.error(fault.code, str(inner) or type(inner).__name__)
    return fault.exit_code


def _unwrapped(exc: Exception) -> Exception:
    """The first error inside a group: tasks that ran together fail together, and one line has to do."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc
