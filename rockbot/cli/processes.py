"""``up``, ``run`` and ``scripts``: the commands that stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rockbot.cli.invocation import Invocation, command

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from rockbot.operator import Operator
    from rockbot.settings import Settings

__all__ = ["register"]

#: Seconds after which a start that is not done explains itself.
_PATIENCE: Final = 1.5
_STARTING: Final = "starting; the first start on a machine prepares the sandbox, which may take a minute"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, "up")(up)
    command(app, "run")(run)
    command(app, "scripts")(scripts)


async def up(
    call: Invocation,
    feed: Annotated[
        Path | None,
        typer.Option("--feed", help="Do the tasks of a file (one JSON object a line), then stop.", show_default=False),
    ] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="Feed all tasks together, not one by one.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop as soon as everything runs (after the feed).")] = False,
) -> int:
    """Everything in one process: bus, state, agents, model, scripts."""
    import asyncio

    from rockbot.errors import MissingExtra
    from rockbot.operators.open import embedded_operator
    from rockbot.processes import Embedded, keep_what_is_there
    from rockbot.signals import reload_on_hangup, stop_on_signals

    try:
        from rockbot.gateway.actions import Actions
        from rockbot.gateway.app import create_app
        from rockbot.gateway.server import GatewayServer
    except ModuleNotFoundError as exc:
        raise MissingExtra("an embedded host's socket", "gateway") from exc

    settings = call.settings()
    _log(settings, quiet=feed is not None)
    if feed is not None and not feed.is_file():
        raise typer.BadParameter(f"--feed names {feed}, which is no file")
    embedded = Embedded(settings)
    embedded.host.when_warm(keep_what_is_there)
    operator = embedded_operator(embedded)
    actions = Actions()
    app = create_app(operator, max_body_bytes=settings.host.max_body_bytes, actions=actions)
    server = GatewayServer(app, settings.socket_path)
    server.bind()  # before anything is opened: of two hosts on one socket the second one stops here

    serving = asyncio.Event()

    async def session() -> int:
        patience = asyncio.get_running_loop().call_later(_PATIENCE, call.screen.say, _STARTING, "dim")
        try:
            async with embedded:
                patience.cancel()
                await server.start()
                if feed is None:
                    serving.set()
                try:
                    return await _work(call, settings, operator, stop, feed=feed, at_once=at_once, once=once)
                finally:
                    await server.close()
                    await actions.close()  # while there are a bus and a store to finish on
        finally:
            patience.cancel()
            await server.close()

    with stop_on_signals() as stop, reload_on_hangup(embedded.container.roster()):
        return await _unless_stopped(session(), stop, serving)


async def _unless_stopped(work: Coroutine[Any, Any, int], stop: asyncio.Event, serving: asyncio.Event) -> int:
    """The result of `work`. A signal cancels it (exit code 130) unless it is `serving`: then it looks at `stop` itself."""
    import asyncio

    from rockbot.operators.faults import ExitCode

    task = asyncio.create_task(work, name="session")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if not serving.is_set():
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return ExitCode.INTERRUPTED
    finally:
        stopped.cancel()


async def _work(
    call: Invocation,
    settings: Settings,
    operator: Operator,
    stop: asyncio.Event,
    *,
    feed: Path | None,
    at_once: bool,
    once: bool,
) -> int:
    from rockbot.operators.faults import ExitCode

    if feed is not None:
        from rockbot.cli.feeding import Feeder

        return await Feeder(call, operator, settings).run(feed, at_once=at_once)
    call.screen.say(f"RockBot is up: model {settings.model_name}, socket {settings.socket_path}", "good")
    if once:
        return ExitCode.PROBLEMS if (await operator.doctor()).worst == "fail" else ExitCode.OK
    agent = settings.default_agent
    call.screen.say(f"try: {call.program} ask {agent} 'What is 6 times 7?'   (Ctrl-C stops)", "dim")
    await stop.wait()
    return ExitCode.OK


async def run(
    call: Invocation,
    handlers: Annotated[
        str | None, typer.Option("--handlers", help="Only these, comma-separated.", show_default=False)
    ] = None,
) -> None:
    """A host for a broker, until SIGTERM."""
    from rockbot.processes import run_host
    from rockbot.signals import stop_on_signals

    further: dict[str, Any] = {}
    if handlers is not None:
        further["handlers"] = tuple(name.strip() for name in handlers.split(",") if name.strip())
    settings = call.settings(**further)
    _log(settings)
    with stop_on_signals() as stop:
        await run_host(settings, stop=stop)


async def scripts(call: Invocation) -> None:
    """The script service for a broker, until SIGTERM."""
    from rockbot.service_process import run_service
    from rockbot.signals import stop_on_signals

    settings = call.settings()
    _log(settings)
    with stop_on_signals() as stop:
        await run_service("scripts", settings, stop=stop)


def _log(settings: Settings, *, quiet: bool = False) -> None:
    """Set the logs up; `quiet` leaves only errors unless a level was set, because what happens is shown anyhow."""
    from rockbot.logs import configure

    quiet = quiet and "log_level" not in settings.host.model_fields_set
    configure("ERROR" if quiet else settings.host.log_level, settings.host.log_format)
