"""The rules of the offline model, as data: what a script looks for and what it says or calls.

A rule file is TOML or JSON::

    [[scripts.weather.rules]]
    name = "ask the tool"
    when = { last = "user", user = "weather in (?P<city>\\\\w+)" }
    calls = [{ tool = "forecast", arguments = { city = "$city" } }]

    [[scripts.weather.rules]]
    name = "quote it"
    when = { last = "tool" }
    reply = "The tool says: $result"

The first rule whose conditions all hold is played. ``$name`` in replies and arguments stands for a named group of the
rule's patterns or for one of `VARIABLES`; ``$$`` is a dollar sign.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rockbot.errors import ConfigError
from rockbot.events.models import StopReason

__all__ = [
    "VARIABLES",
    "Fault",
    "Rule",
    "Script",
    "ToolCall",
    "When",
    "builtin_scripts",
    "load_scripts",
    "parse_scripts",
]

#: Placeholders every rule may use: the last text of the user, the last tool result, the expression that
#: ``find = "arithmetic"`` found, and the number of the model call within the task, from 1.
VARIABLES: Final = frozenset({"user", "result", "expression", "step"})

_BUILTIN: Final = "demo_rules.toml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@final
class When(_Part):
    """Conditions; those that are not given hold.

    `last` says what the newest message is; `user` and `result` are patterns searched in the user's last text and in the
    last tool result; `failed` says whether a tool of the last message reported an error; `step` is the number of the model
    call within the task; `offers` are tools that must be on offer; `find` looks for something no pattern can describe.
    """

    last: Literal["user", "tool"] | None = None
    user: str | None = None
    result: str | None = None
    failed: bool | None = None
    step: int | None = Field(default=None, ge=1)
    offers: tuple[str, ...] = ()
    find: Literal["arithmetic"] | None = None

    @field_validator("user", "result")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as exc:
                raise ValueError(f"{value!r} is not a regular expression: {exc}") from None
        return value

    @property
    def names(self) -> frozenset[str]:
        """The placeholders that its patterns define."""
        patterns = [pattern for pattern in (self.user, self.result) if pattern is not None]
        return frozenset(name for pattern in patterns for name in re.compile(pattern).groupindex)


@final
class ToolCall(_Part):
    """One tool call of a reply; several of them are made in parallel."""

    tool: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)


@final
class Fault(_Part):
    """Fail the first `times` attempts of a call in this way, as a provider would. Counted per process."""

    error: Literal["transient", "throttled", "permanent", "unknown"]
    times: int = Field(default=1, ge=1)
    after: float | None = Field(default=None, ge=0)
    message: str = "the script says so"


@final
class Rule(_Part):
    """One rule. After its failures are used up a rule without reply and calls no longer fits."""

    name: str = Field(min_length=1)
    when: When = When()
    reply: str = ""
    calls: tuple[ToolCall, ...] = ()
    stop_reason: StopReason | None = None
    fail: Fault | None = None

    @model_validator(mode="after")
    def _does_something_it_can(self) -> Rule:
        if not (self.reply or self.calls or self.fail):
            raise ValueError("it does nothing: give it a reply, calls, or fail")
        known = VARIABLES | self.when.names
        for text in (self.reply, *(text for call in self.calls for text in _texts(call.arguments))):
            template = Template(text)
            if not template.is_valid():
                raise ValueError(f"a lone $ in {text!r}: write $$ for a dollar sign, $name for a placeholder")
            unknown = sorted(set(template.get_identifiers()) - known)
            if unknown:
                raise ValueError(f"placeholder ${unknown[0]} is not defined (defined: {', '.join(sorted(known))})")
        return self


@final
class Script(_Part):
    """A named list of rules; the first that fits is played."""

    description: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1)


@final
class _RuleFile(_Part):
    scripts: dict[str, Script] = Field(min_length=1)


def parse_scripts(text: str, *, source: str, syntax: Literal["toml", "json"]) -> dict[str, Script]:
    """The scripts of a rule file's text; `source` names it in errors.

    Raises:
        ConfigError: it is not well-formed, or a rule is wrong; the text names file, script and rule.
    """
    try:
        data = tomllib.loads(text) if syntax == "toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as exc:
        raise ConfigError(f"the rule file {source} is not valid {syntax.upper()}: {exc}") from None
    try:
        return _RuleFile.model_validate(data).scripts
    except ValidationError as exc:
        raise ConfigError("; ".join(_explain(exc, data, source))) from None


def load_scripts(path: Path) -> dict[str, Script]:
    """The scripts of a rule file, by its suffix ``.toml`` or ``.json``.

    Raises:
        ConfigError: it cannot be read, or as for `parse_scripts`.
    """
    if path.suffix not in (".toml", ".json"):
        raise ConfigError(f"setting 'scripted.rules' names {path}: a rule file ends in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"setting 'scripted.rules' names {path}, which cannot be read: {exc}") from None
    return parse_scripts(text, source=str(path), syntax="toml" if path.suffix == ".toml" else "json")


def builtin_scripts() -> dict[str, Script]:
    """The scripts that come with this package."""
    text = resources.files(__package__).joinpath(_BUILTIN).read_text(encoding="utf-8")
    return parse_scripts(text, source=_BUILTIN, syntax="toml")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _explain(exc: ValidationError, data: object, source: str) -> Iterator[str]:
    for error in exc.errors(include_url=False, include_input=False):
        message = error["msg"].removeprefix("Value error, ")
        match error["loc"]:
            case ("scripts", str(script), "rules", int(index), *rest):
                where = f"rule {index + 1}{_name_of(data, script, index)} of script {script!r} in {source}"
            case ("scripts", str(script), *rest):
                where = f"script {script!r} in {source}"
            case rest_of_file:
                where, rest = f"the rule file {source}", list(rest_of_file)
        path = ".".join(str(part) for part in rest)
        yield f"{where}: {path}: {message}" if path else f"{where}: {message}"


def _name_of(data: Any, script: str, index: int) -> str:
    try:
        return f" ({data['scripts'][script]['rules'][index]['name']!r})"
    except (KeyError, IndexError, TypeError):
        return ""
