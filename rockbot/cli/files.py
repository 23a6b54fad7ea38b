"""Where an export goes: standard output, or a file that is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = ["Output", "new_file"]

_STDOUT: Final = Path("-")

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="A new file; without it, or with -, standard output.", show_default=False),
]


def new_file(output: Path | None) -> Path | None:
    """The file that is meant, None for standard output. Raises `typer.BadParameter`: it exists."""
    if output is None or output == _STDOUT:
        return None
    if output.exists():
        raise typer.BadParameter(f"{output} exists: choose another name, nothing is written over")
    return output
