"""One run of the command line: its global options, and what commands reach through them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import typer

from rockbot.cli.render import Screen

if TYPE_CHECKING:
    from rockbot.operator import Operator
    from rockbot.settings import Settings

__all__ = ["Invocation", "command", "command_word", "global_parameters", "group", "present"]

_NAME: Final = "rockbot"

Command = Callable[..., "int | Coroutine[Any, Any, int | None] | None"]

#: Option name in Python: annotation (without the help of being hidden or not), default.
_GLOBALS: Final[dict[str, tuple[Any, tuple[str, ...], str, str | None]]] = {
    "broker": (str | None, ("--broker",), "Broker address: memory://, amqp://..., amqps://...", "URL"),
    "state": (str | None, ("--state",), "State store: sqlite:///path, postgresql://, redis://, memory://.", "URL"),
    "model": (str | None, ("--model",), "Model of agents that name none, for example scripted/demo.", "PROVIDER/MODEL"),
    "config": (Path | None, ("--config",), "Settings file instead of ./rockbot.toml.", "FILE"),
    "socket": (Path | None, ("--socket",), "Socket of the embedded host.", "PATH"),
    "as_json": (bool, ("--json",), "Results and errors as JSON, one object a line.", None),
    "debug": (bool, ("--debug",), "Show the traceback of an error, and debug logs.", None),
    "no_color": (bool, ("--no-color",), "No colours (as with NO_COLOR).", None),
}


@final
class Invocation:
    """Global options may stand before or behind the command; given twice, the last one counts, flags add up."""

    def __init__(self) -> None:
        self._flags: dict[str, Any] = {}
        self._settings: Settings | None = None

    def take(self, given: dict[str, Any]) -> None:
        """Note the global options of one level."""
        self._flags.update({name: value for name, value in given.items() if value not in (None, False)})

    @property
    def debug(self) -> bool:
        """Whether tracebacks are wanted."""
        return bool(self._flags.get("debug"))

    @property
    def screen(self) -> Screen:
        """Where output goes."""
        return Screen(json=bool(self._flags.get("as_json")), color=not self._flags.get("no_color"))

    @property
    def program(self) -> str:
        """How a command to the same host begins: this program as it was called, where the shell would not find it by its name,
        and the given flags that say which host and which state are meant, secrets masked."""
        import shlex

        from rockbot.logs import redact

        given = [(name, self._flags.get(name)) for name in ("config", "socket", "state")]
        flags = "".join(f" --{name} {shlex.quote(redact(str(value)))}" for name, value in given if value is not None)
        return f"{shlex.quote(_program())}{flags}"

    def settings(self, **further: Any) -> Settings:
        """The settings, read once; `further` are flags of the command itself.

        Raises:
            ConfigError: as `rockbot.settings.load`.
        """
        if self._settings is None or further:
            from rockbot.settings import load

            flags: dict[str, Any] = {
                "broker_url": self._flags.get("broker"),
                "state_url": self._flags.get("state"),
                "model": self._flags.get("model"),
                "socket": self._flags.get("socket"),
                **further,
            }
            if self.debug:
                flags["host"] = {"log_level": "DEBUG"}
            self._settings = load(flags, config=self._flags.get("config"))
        return self._settings

    @asynccontextmanager
    async def operator(self, *, composed: bool = False, stored: bool = False) -> AsyncIterator[Operator]:
        """The operator that the settings lead to; see `rockbot.operators.open.open_operator`."""
        from rockbot.operators.open import open_operator

        async with open_operator(self.settings(), composed=composed, stored=stored) as operator:
            yield operator


def _program() -> str:
    import shutil

    called = Path(sys.argv[0])
    if called.name != _NAME or called.parent == Path() or not called.is_file():
        return _NAME
    found = shutil.which(_NAME)
    return _NAME if found is not None and called.samefile(found) else sys.argv[0]


def command_word(arguments: Sequence[str]) -> str | None:
    """The first argument that is neither a global option nor the value of one; None if there is none before the help."""
    takes_value = {name for kind, names, _, _ in _GLOBALS.values() if kind is not bool for name in names}
    rest = iter(arguments)
    for argument in rest:
        if argument in takes_value:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None


def global_parameters(*, hidden: bool) -> list[inspect.Parameter]:
    """The global options as parameters of a typer function."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[
                kind,
                typer.Option(
                    *names,
                    help=text,
                    metavar=metavar,
                    hidden=hidden,
                    show_default=False,
                    rich_help_panel=None if hidden else "Global options, before or behind the command",
                ),
            ],
        )
        for name, (kind, names, text, metavar) in _GLOBALS.items()
    ]


def command(app: typer.Typer, name: str, **options: Any) -> Callable[[Command], Command]:
    """Register a function as a command. Its first parameter is the `Invocation`; it may be a coroutine function.

    What it returns is the exit code, None is 0.
    """

    def register(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(signature.parameters.values())[1:]
        ]
        shared = global_parameters(hidden=True)

        def run(ctx: typer.Context, **given: Any) -> int | None:
            call: Invocation = ctx.find_root().obj
            call.take({parameter.name: given.pop(parameter.name) for parameter in shared})
            result = function(call, **given)
            if inspect.iscoroutine(result):
                import asyncio

                code: int | None = asyncio.run(result)
                return code
            assert not isinstance(result, Coroutine)
            return result

        present(run, function, [*own, *shared])
        app.command(name, **options)(run)
        return function

    return register


def group(app: typer.Typer, name: str, *, help: str) -> typer.Typer:
    """Add a group of commands; the global options may stand behind its name too."""
    part = typer.Typer(no_args_is_help=True, help=help)
    shared = global_parameters(hidden=True)

    def note(ctx: typer.Context, **given: Any) -> None:
        ctx.find_root().obj.take(given)

    present(note, note, shared)
    part.callback()(note)
    app.add_typer(part, name=name)
    return part


def present(run: Callable[..., Any], function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Let typer see `parameters` as those of `run`, and the docstring of `function`."""
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    run.__doc__ = function.__doc__
    run.__name__ = getattr(function, "__name__", "run")
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *parameters]}
    run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
