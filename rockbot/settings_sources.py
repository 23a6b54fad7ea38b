"""Where settings come from: files, secret files, the environment; each with what an error has to say about it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from rockbot.errors import ConfigError
from rockbot.settings_agents import AgentPlace
from rockbot.toml_lines import key_lines, line_of
from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.topics import check_word

__all__ = ["Source", "agent_places", "has", "is_setting", "merge", "read_agents", "read_secrets", "read_toml"]

#: Variables that are ours but no settings.
_NOT_SETTINGS = ("ROCKBOT_CONFIG", "ROCKBOT_SECRETS_DIR")
#: What Kubernetes puts into every container for a Service whose name begins with rockbot.
_SERVICE_LINK = re.compile(
    r"ROCKBOT_(?:[A-Z0-9]+_)*?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)"
)


def is_setting(variable: str) -> bool:
    return (
        variable.startswith("ROCKBOT_")
        and variable not in _NOT_SETTINGS
        and not variable.startswith("ROCKBOT_TEST_")
        and ("__" in variable or not _SERVICE_LINK.fullmatch(variable))
    )


@final
@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from; `lines` has those of a file's keys, `file` is the file, `agent` the agent it is all about."""

    name: str
    values: dict[str, Any]
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    file: Path | None = None
    agent: str = ""

    def at(self, path: Sequence[str]) -> str:
        line = line_of(self.lines, tuple(path[2:] if self.agent else path))
        return self.name if line is None else f"{self.name}, line {line}"


def read_toml(path: Path, what: str) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
        return Source(str(path), tomllib.loads(text), key_lines(text), path)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{what} {path} is not valid TOML: {exc}") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{what} {path} cannot be read: {exc}") from None


def read_agents(sources: Sequence[Source], *, inline: Source | None) -> list[Source]:
    """The files of the folder that the sources name, each as what it would be under ``[agents]``."""
    folder = next((named for source in reversed(sources) if (named := _folder_in(source.values))), None)
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"setting 'agent_files.folder' names {folder!r}, which is no folder")
    found: list[Source] = []
    for path in sorted(Path(folder).glob("*.toml")):
        if path.name.startswith("."):
            continue
        try:
            name = check_word(path.stem)
        except InvalidTopic as exc:
            raise ConfigError(f"the file {path} cannot name an agent: {exc}") from None
        if inline is not None and has(inline.values, ["agents", name]):
            raise ConfigError(
                f"agent {name!r} is defined twice: in {path} and in {inline.at(['agents', name])}; remove one of them"
            )
        source = read_toml(path, "the agent's file")
        found.append(replace(source, values={"agents": {name: source.values}}, agent=name))
    return found


def _folder_in(values: dict[str, Any]) -> str | None:
    section = values.get("agent_files")
    folder = section.get("folder") if isinstance(section, dict) else None
    return str(folder) if folder else None


def agent_places(names: Iterable[str], sources: Sequence[Source]) -> dict[str, AgentPlace]:
    """Where each agent's paths are relative to: its own file, else the settings file, else the working folder."""
    found = {}
    for name in names:
        for source in reversed(sources):
            if source.file is not None and has(source.values, ["agents", name]):
                cut = 0 if source.agent else 2
                lines = {
                    path[cut:]: line for path, line in source.lines.items() if source.agent or path[1:2] == (name,)
                }
                found[name] = AgentPlace(source.file, source.file.parent, lines)
                break
    return found


def read_secrets(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue  # a mounted Kubernetes secret keeps its versions in hidden folders
        *parents, last = path.name.lower().removeprefix("rockbot_").split("__")
        at = values
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ConfigError(f"the secret file {path} sets a key of {parent!r}, which another one sets whole")
        try:
            at[last] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the secret file {path} cannot be read: {type(exc).__name__}") from None
    return values


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def has(values: dict[str, Any], path: list[str]) -> bool:
    at: Any = values
    for part in path:
        if isinstance(at, list) and part.isdecimal() and int(part) < len(at):
            at = at[int(part)]
        elif isinstance(at, dict) and part in at:
            at = at[part]
        else:
            return False
    return True
