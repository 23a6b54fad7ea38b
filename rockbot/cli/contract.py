"""``contract``: the wire contract as files, for programs in other languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rockbot.cli.invocation import Invocation, command, group

__all__ = ["register"]

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where asyncapi.json and schemas/ lie.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    contract = group(app, "contract", help="The wire contract as AsyncAPI and JSON Schema.")
    command(contract, "export")(export)


def export(
    call: Invocation,
    folder: Folder = Path("design/contract"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 6 when a file is not what the events are.")
    ] = False,
) -> int:
    """Write the documents that are generated from the events of the installed handlers."""
    from rockbot.operators.faults import ExitCode
    from rockbot.processes import compose_host
    from rockbot.wire_contract import contract_documents

    documents = contract_documents(compose_host(call.settings()).registry())
    there = {f"schemas/{path.name}" for path in (folder / "schemas").glob("*.json")}  # nothing else there is ours
    stale = sorted(there - documents.keys())
    changed = [name for name, text in documents.items() if _read(folder / name) != text]
    if check:
        for name in [*changed, *stale]:
            call.screen.say(f"{folder / name} is not what the events are", "warn")
        return ExitCode.PROBLEMS if changed or stale else ExitCode.OK
    for name in changed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents[name], encoding="utf-8")
    for name in stale:
        (folder / name).unlink()
    call.screen.say(f"{len(documents)} documents in {folder}, {len(changed)} of them new or changed", "good")
    return ExitCode.OK


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
