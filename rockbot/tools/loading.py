"""Where toolsets come from: installed packages that offer them by entry point, and files that settings name."""

from __future__ import annotations

import hashlib
import sys
import traceback
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

from rockbot.errors import ConfigError
from rockbot.settings_tools import ToolSettings
from rockbot.tools.reading import ARTIFACTS
from rockbot.tools.toolset import Toolset

__all__ = ["ENTRY_POINTS", "load_toolsets"]

#: Entry point group of toolsets; each names a `Toolset`.
ENTRY_POINTS: Final = "rockbot.toolsets"

#: Where this package lies: that a decorator of ours raised an error is not what its author must look at.
_OURS: Final = Path(__file__).parent


def load_toolsets(settings: ToolSettings) -> dict[str, Toolset]:
    """Every toolset that the settings offer, by name; `artifacts`, which is built in, among them.

    Raises:
        ConfigError: a file or a package cannot be loaded, has no toolset, or two have one name; the text says which and where.
    """
    found: dict[str, tuple[Toolset, str]] = {ARTIFACTS.name: (ARTIFACTS, "rockbot")}
    for toolset, where in [*_installed(settings), *_in_files(settings)]:
        if (other := found.get(toolset.name)) is not None and other[0] is not toolset:
            raise ConfigError(f"two toolsets are named {toolset.name!r}: in {other[1]} and in {where}")
        found[toolset.name] = (toolset, where)
    named = {"tools.toolsets": settings.toolsets or (), "tools.run": settings.run or ()}
    for setting, names in named.items():
        if unknown := set(names) - set(found):
            known = ", ".join(sorted(found)) or "none"
            raise ConfigError(
                f"setting {setting!r} names {', '.join(sorted(unknown))}, which nothing offers (offered: {known})"
            )
    return {name: toolset for name, (toolset, _) in found.items()}


def _installed(settings: ToolSettings) -> list[tuple[Toolset, str]]:
    wanted = settings.toolsets
    found = []
    for point in entry_points(group=ENTRY_POINTS):
        if wanted is not None and point.name not in wanted:
            continue
        try:
            toolset = point.load()
        except Exception as exc:
            raise ConfigError(f"the toolset {point.name!r} cannot be loaded from {point.value}: {_said(exc)}") from exc
        if not isinstance(toolset, Toolset) or toolset.name != point.name:
            raise ConfigError(
                f"the entry point {point.name!r} is no toolset of that name: {point.value} is {toolset!r}"
            )
        found.append((toolset, point.value))
    return found


def _in_files(settings: ToolSettings) -> list[tuple[Toolset, str]]:
    found: list[tuple[Toolset, str]] = []
    for path in settings.files:
        module = _module(path)
        here = [value for value in vars(module).values() if isinstance(value, Toolset)]
        if not here:
            raise ConfigError(
                f"the file {path} (setting 'tools.files') has no toolset: it needs a `name = Toolset(...)`"
            )
        found.extend((toolset, str(path)) for toolset in here)
    return found


def _module(path: Path) -> ModuleType:
    where = path.absolute()
    name = f"rockbot_tools_{where.stem}_{hashlib.sha256(str(where).encode()).hexdigest()[:8]}"
    if (known := sys.modules.get(name)) is not None:
        return known
    if not where.is_file():
        raise ConfigError(f"the file {path} (setting 'tools.files') does not exist")
    spec = spec_from_file_location(name, where)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the file {path} (setting 'tools.files') is no Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # annotations are looked up by the name of the module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        raise ConfigError(f"the file {path} (setting 'tools.files') cannot be loaded: {_said(exc, where)}") from exc
    return module


def _said(exc: Exception, file: Path | None = None) -> str:
    """The error and the line of the author's code it came from: of `file`, else the innermost one that is not ours."""
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(exc.__traceback__)]
    theirs = [place for place in places if place[0].parent != _OURS and not place[0].name.startswith("<frozen ")]
    place = next(reversed([place for place in theirs if place[0] == file] or theirs), None)
    line = f" (line {place[1]} of {place[0].name})" if place is not None else ""
    return f"{type(exc).__name__}: {exc}{line}"
