"""``state``: looking after a state store, carrying it elsewhere, making it forget. It opens the store itself, without a host."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rockbot.cli.files import Output, new_file
from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.cli.render import Block
    from rockbot.state.desk.forgotten import Forgotten
    from rockbot.state.desk.moving import Progress
    from rockbot.state.ports import ItemKind, StateStore

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    state = group(app, "state", help="Look after the state store.")
    command(state, "doctor")(doctor)
    command(state, "export")(export)
    command(state, "import")(load)
    command(state, "migrate")(migrate)
    command(state, "forget")(forget)


async def doctor(call: Invocation) -> int:
    """How the store keeps things and what in it waits too long. Exits with 6 when something is wrong, warnings included."""
    from rockbot.cli.views import diagnosis_blocks
    from rockbot.operators.faults import ExitCode
    from rockbot.operators.models import Diagnosis
    from rockbot.state.desk.checking import check_store
    from rockbot_messaging.clock import SystemClock

    async with _opened(call.settings().state_address) as store:
        checks = await check_store(store, SystemClock())
    found = Diagnosis(checks=tuple(checks))
    call.screen.show(found.checks, diagnosis_blocks(found))
    return ExitCode.OK if found.worst == "ok" else ExitCode.PROBLEMS


async def export(
    call: Invocation,
    output: Output = None,
) -> None:
    """Write the whole store as JSON Lines. Stop its hosts first, if the copy is to fit together."""
    from rockbot import __version__
    from rockbot.presence import processes
    from rockbot.state.desk.moving import export as write

    output = new_file(output)
    async with _opened(call.settings().state_address) as store:
        if running := await processes(store):
            call.screen.say(f"{len(running)} process(es) run on this store: what they write now may be missing", "warn")
        if output is None:
            moved = await write(store, sys.stdout.buffer, release=__version__)
        else:
            part = output.with_name(f".{output.name}.part")
            try:
                # Transcripts are nobody else's business.
                part.touch(mode=0o600)
                with part.open("wb") as file:
                    moved = await write(store, file, release=__version__, progress=_progress(call))
                part.rename(output)
            finally:
                part.unlink(missing_ok=True)
    _say_moved(call, moved.counts, "written")


async def load(
    call: Invocation,
    file: Annotated[Path, typer.Argument(help="What `state export` wrote.", exists=True, dir_okay=False)],
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Also into a store that is not empty: what has the same name is replaced."),
    ] = False,
) -> None:
    """Put an exported store into this one, whatever kind each of them is. The file is verified first."""
    from rockbot.state.desk.moving import load as read

    async with _opened(call.settings().state_address, new=True) as store:
        moved = await read(store, file, merge=merge, progress=_progress(call))
    _say_moved(call, moved.counts, "imported")


async def migrate(
    call: Invocation,
    to: Annotated[str, typer.Option("--to", help="The address of an empty store, of any kind.", metavar="URL")],
    force: Annotated[bool, typer.Option("--force", help="Although processes run on this store.")] = False,
) -> None:
    """Copy this store into another one and compare them. The settings are yours to change afterwards."""
    from rockbot.state.desk.moving import migrate as copy

    settings = call.settings()
    if to == settings.state_address:
        raise typer.BadParameter("--to names the store itself")
    async with _opened(settings.state_address) as source, _opened(to, new=True) as target:
        moved = await copy(source, target, force=force, progress=_progress(call))
    _say_moved(call, moved.counts, "copied and compared")
    call.screen.say("set state_url (ROCKBOT_STATE_URL) of every host to the new address, then start them", "dim")


async def forget(
    call: Invocation,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Everything of this conversation.", show_default=False)
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            help="The conversation's tenant (default: default); without a conversation everything of the tenant.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Although a task of it has not ended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Remove a conversation, or a tenant, for good: journal, transcripts, results, timers, artifacts, history."""
    from rockbot.cli.letters_asking import agrees
    from rockbot.operators.faults import ExitCode
    from rockbot.state.desk.forgetting import forget_conversation, forget_tenant

    if conversation is None and tenant is None:
        raise typer.BadParameter("name a --conversation or a --tenant")
    what = f"conversation {conversation!r}" if conversation is not None else f"everything of tenant {tenant!r}"
    if not yes and not await agrees(call.screen, f"Forget {what}? It cannot be brought back."):
        call.screen.say("nothing was removed")
        return ExitCode.FAILURE
    async with _opened(call.settings().state_address) as store:
        if conversation is not None:
            found = await forget_conversation(store, tenant or "default", conversation, force=force)
        else:
            found = await forget_tenant(store, tenant or "", force=force)
    call.screen.show(found, _forgotten(found))
    return ExitCode.OK


@asynccontextmanager
async def _opened(url: str, *, new: bool = False) -> AsyncIterator[StateStore]:
    """The store of an address; unless it may be `new`, a file has to be there."""
    from rockbot.errors import ConfigError
    from rockbot.state.open import open_store, sqlite_path
    from rockbot.state.ports import StateUnavailable
    from rockbot_messaging.clock import SystemClock

    if url.startswith("memory:"):
        raise ConfigError("memory:// ends with its process: there is nothing here to look after; name another --state")
    path = sqlite_path(url)
    if path is not None and not new and not path.exists():
        raise StateUnavailable(f"there is no state file {path}: check --state (ROCKBOT_STATE_URL)")
    store = open_store(url, SystemClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _progress(call: Invocation) -> Progress | None:
    """What is told meanwhile: a line for each ten thousand items of a kind, on a terminal."""
    if call.screen.json or not sys.stderr.isatty():
        return None
    told: dict[str, int] = {}

    def progress(kind: str, count: int) -> None:
        if count // 10_000 > told.get(kind, 0):
            told[kind] = count // 10_000
            call.screen.say(f"{kind}: {count}", "dim")

    return progress


def _say_moved(call: Invocation, counts: Mapping[ItemKind, int], verb: str) -> None:
    told = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    call.screen.say(f"{verb}: {told or 'nothing, it is empty'}", "good")


def _forgotten(found: Forgotten) -> list[Block]:
    from rockbot.cli.render import Facts, Prose

    if not found.removed:
        blocks: list[Block] = [Prose("nothing of it was there")]
    else:
        blocks = [Facts(tuple((what, str(count)) for what, count in found.removed.items()), title="removed")]
    if found.letters:
        import shlex

        which = f" --conversation {shlex.quote(found.conversation)}" if found.conversation is not None else ""
        lines = [f"{left.count} in {left.queue}" for left in found.letters]
        lines.append(
            f"they lie in the broker: rockbot dlq discard{which} --reason '...', then purge what was discarded"
        )
        blocks.append(Prose("\n".join(lines), "dead letters that were left", "warn"))
    return blocks
