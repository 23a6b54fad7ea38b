"""Settings: one file, the environment, secret files; checked before anything starts.

Later sources go before earlier ones: defaults, `rockbot.toml` (or the file that ``ROCKBOT_CONFIG`` names), secret files
(``ROCKBOT_SECRETS_DIR``, one file per key, named like the variable with or without ``ROCKBOT_``), the environment
(``ROCKBOT_<KEY>``, nested keys joined by ``__``), command-line flags. Unknown keys are errors, because a misspelt limit is
no limit.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rockbot.errors import ConfigError
from rockbot.policies import Policy
from rockbot.settings_delivery import (
    ArtifactSettings,
    BrokerSettings,
    LetterSettings,
    SigningSettings,
    SubscriptionSettings,
    TrustSettings,
)
from rockbot.settings_streaming import StreamingSettings
from rockbot_messaging.topics import check_word

__all__ = [
    "AgentSettings",
    "AnthropicSettings",
    "HostSettings",
    "OpenAiSettings",
    "ScriptedSettings",
    "Settings",
    "load",
]

#: Model used when neither a setting nor a key in the environment says otherwise.
OFFLINE_MODEL = "scripted/demo"
#: Model used when an Anthropic key is in the environment and no model is set.
ANTHROPIC_MODEL = "anthropic/claude-sonnet-5-5"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AgentSettings(_Section):
    """One agent.

    `model` None means the host's; `tools` None means all that are installed. `max_model_calls` bounds one task,
    `timeout_seconds` is the deadline of a task that brings none. `max_waiting` is how many tasks may wait in one
    conversation for the one under way; what comes beyond is answered as failed (`busy`) at once. `policy` says which calls of
    its tools are allowed, denied, or need a person's approval.
    """

    instructions: str = "You are a helpful assistant. Use the tools for anything that needs computing."
    model: str | None = None
    tools: tuple[str, ...] | None = None
    max_model_calls: int = Field(default=25, ge=1, le=1000)
    max_output_tokens: int = Field(default=4096, ge=1)
    timeout_seconds: float = Field(default=3600, gt=0, le=30 * 86_400)
    max_waiting: int = Field(default=100, ge=0, le=10_000)
    policy: Policy = Policy()


class AnthropicSettings(_Section):
    """Access to Anthropic's API. The key also comes from ``ANTHROPIC_API_KEY``, the address from ``ANTHROPIC_BASE_URL``."""

    api_key: SecretStr | None = None
    base_url: str | None = None
    timeout_seconds: float = Field(default=600, gt=0)


class OpenAiSettings(_Section):
    """Access to one server that speaks chat completions; what is None comes from the preset of the provider's name.

    The key also comes from the preset's own variable, like ``OPENAI_API_KEY``. `headers` are sent with every call.
    `output_limit` is the field that bounds a reply. `images` false replaces images by a note, for servers that take none;
    `reasoning` says whether the server wants the reasoning of its earlier replies back.
    """

    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout_seconds: float = Field(default=600, gt=0)
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    images: bool = True
    reasoning: bool | None = None


class ScriptedSettings(_Section):
    """The offline model: `rules` is a TOML or JSON file of rules, `call_log` a file that gets a line per call made."""

    rules: Path | None = None
    call_log: Path | None = None


class HostSettings(_Section):
    """The process. `health_port` 0 switches the health endpoints off.

    `claim_seconds` is how long a killed worker's call waits before another worker may make it; a running call renews its
    claim. `recovery_seconds` is how long a command may be without an answer before it is published again.
    """

    prefetch: int = Field(default=100, ge=1, le=10_000)
    concurrency: int = Field(default=32, ge=1, le=10_000)
    llm_concurrency: int = Field(default=4, ge=1, le=1000)
    drain_seconds: float = Field(default=25, ge=0)
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65535)
    max_body_bytes: int = Field(default=16 << 20, ge=4096)
    claim_seconds: float = Field(default=5, gt=0, le=60)
    recovery_seconds: float = Field(default=30, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "console", "json"] = "auto"


class Settings(BaseSettings):
    """Everything that can be set.

    `scripts` is read by the script service, which validates it by its own model at boot. `model` empty means the offline
    model, or Anthropic's when its key is in the environment. `state_url` empty means a file in the user's state folder,
    `socket` None one in the user's runtime folder.
    """

    model_config = SettingsConfigDict(env_prefix="ROCKBOT_", env_nested_delimiter="__", extra="forbid", frozen=True)

    broker_url: SecretStr = SecretStr("memory://")
    state_url: str = Field(default="", repr=False)  # addresses of servers carry passwords
    socket: Path | None = None
    namespace: str = "rockbot"
    model: str = ""
    default_agent: str = "assistant"
    handlers: tuple[str, ...] = ("logging", "deadline", "deduplication", "agent", "llm", "scripts")
    agents: dict[str, AgentSettings] = Field(default_factory=lambda: {"assistant": AgentSettings()})
    host: HostSettings = HostSettings()
    scripts: dict[str, Any] = Field(default_factory=dict)
    broker: BrokerSettings = BrokerSettings()
    subscriptions: dict[str, SubscriptionSettings] = Field(default_factory=dict)
    letters: LetterSettings = LetterSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    signing: SigningSettings = SigningSettings()
    trust: TrustSettings = TrustSettings()
    anthropic: AnthropicSettings = AnthropicSettings()
    providers: dict[str, OpenAiSettings] = Field(default_factory=dict)
    scripted: ScriptedSettings = ScriptedSettings()
    streaming: StreamingSettings = StreamingSettings()
    source: str = "rockbot"

    @field_validator("namespace", "default_agent")
    @classmethod
    def _is_word(cls, value: str) -> str:
        return check_word(value)

    @field_validator("agents", "providers")
    @classmethod
    def _names_are_words(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_word(name)
        return value

    @model_validator(mode="after")
    def _default_agent_exists(self) -> Settings:
        if self.default_agent not in self.agents:
            known = ", ".join(sorted(self.agents)) or "none"
            raise ValueError(f"default_agent {self.default_agent!r} is not defined under [agents] (defined: {known})")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def model_name(self) -> str:
        """The model of agents that name none."""
        if self.model:
            return self.model
        key = self.anthropic.api_key is not None or os.environ.get("ANTHROPIC_API_KEY")
        return ANTHROPIC_MODEL if key else OFFLINE_MODEL

    @property
    def socket_path(self) -> Path:
        """Where an embedded host listens for the command line."""
        if self.socket is not None:
            return self.socket
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        return Path(runtime, "rockbot.sock") if runtime else _state_dir() / "rockbot.sock"

    @property
    def state_address(self) -> str:
        """The state store's URL."""
        return self.state_url or f"sqlite:///{_state_dir() / 'state.db'}"

    def agent_model(self, agent: AgentSettings) -> str:
        """The model of an agent."""
        return agent.model or self.model_name


def _state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "rockbot")


#: Variables that are ours but no settings.
_NOT_SETTINGS = ("ROCKBOT_CONFIG", "ROCKBOT_SECRETS_DIR")
#: What Kubernetes puts into every container for a Service whose name begins with rockbot.
_SERVICE_LINK = re.compile(
    r"ROCKBOT_(?:[A-Z0-9]+_)*?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)"
)


def _is_setting(variable: str) -> bool:
    return (
        variable.startswith("ROCKBOT_")
        and variable not in _NOT_SETTINGS
        and not variable.startswith("ROCKBOT_TEST_")
        and ("__" in variable or not _SERVICE_LINK.fullmatch(variable))
    )


def load(flags: dict[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """Read all sources.

    `config` names the file and must exist; without it ``ROCKBOT_CONFIG``, then `rockbot.toml` in the working folder, if any.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is wrong; the text names key and source.
    """
    sources: list[tuple[str, dict[str, Any]]] = []
    named = config or (Path(os.environ["ROCKBOT_CONFIG"]) if os.environ.get("ROCKBOT_CONFIG") else None)
    path = named or Path("rockbot.toml")
    if named is not None or path.exists():
        sources.append((str(path), _read_toml(path)))
    if secrets := os.environ.get("ROCKBOT_SECRETS_DIR"):
        if not Path(secrets).is_dir():
            raise ConfigError(f"ROCKBOT_SECRETS_DIR names {secrets!r}, which is no folder")
        sources.append((f"secret files in {secrets}", _read_secrets(Path(secrets))))
    sources.append(("the environment", _read_environment()))
    sources.append(("command-line flags", {key: value for key, value in (flags or {}).items() if value is not None}))

    merged: dict[str, Any] = {}
    for _, values in sources:
        _merge(merged, values)
    try:
        return Settings(**merged)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, sources)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the settings file {path} cannot be read: {exc}") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"the settings file {path} is not valid TOML: {exc}") from None


def _read_environment() -> dict[str, Any]:
    for name in filter(_is_setting, os.environ):
        key = name.removeprefix("ROCKBOT_").split("__")[0].lower()
        if key not in Settings.model_fields:
            raise ConfigError(f"the environment variable {name} sets no setting: there is no key {key!r}{_near(key)}")
    try:
        return dict(EnvSettingsSource(Settings)())
    except Exception as exc:  # the library raises its own SettingsError for values that are not JSON
        raise ConfigError(f"an environment variable cannot be read: {exc}") from None


def _read_secrets(folder: Path) -> dict[str, Any]:
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


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _near(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(exc: ValidationError, sources: list[tuple[str, dict[str, Any]]]) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_input=False):
        path = [str(part) for part in error["loc"]]
        origin = next((name for name, values in reversed(sources) if _has(values, path)), None)
        where = f" (from {origin})" if origin else ""
        if error["type"] == "extra_forbidden":
            hint = _near(path[-1]) if len(path) == 1 else ""
            lines.append(f"unknown setting {'.'.join(path)!r}{where}{hint}")
        else:
            message = error["msg"].removeprefix("Value error, ")
            lines.append(f"setting {'.'.join(path)!r}{where}: {message}" if path else message)
    return "; ".join(lines)


def _has(values: dict[str, Any], path: list[str]) -> bool:
    at: Any = values
    for part in path:
        if not isinstance(at, dict) or part not in at:
            return False
        at = at[part]
    return True
