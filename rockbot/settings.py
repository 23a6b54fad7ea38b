"""Settings: one file, the environment, secret files; checked before anything starts.

Later sources go before earlier ones: defaults, `rockbot.toml` (or the file that ``ROCKBOT_CONFIG`` names), secret files
(``ROCKBOT_SECRETS_DIR``, one file per key, named like the variable with or without ``ROCKBOT_``), the environment
(``ROCKBOT_<KEY>``, nested keys joined by ``__``), command-line flags. Unknown keys are errors, because a misspelt limit is
no limit.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from rockbot.errors import ConfigError
from rockbot.settings_agents import AgentFileSettings, AgentPlace, AgentSettings
from rockbot.settings_delivery import (
    ArtifactSettings,
    BrokerSettings,
    LetterSettings,
    SigningSettings,
    SubscriptionSettings,
    TrustSettings,
)
from rockbot.settings_explaining import ENVIRONMENT, explain, near, unreadable
from rockbot.settings_history import HistorySettings
from rockbot.settings_models import BackendSettings, LimitsSettings, ModelSettings, PricesSettings, TierSettings
from rockbot.settings_providers import AnthropicSettings, CassetteSettings, OpenAiSettings, ScriptedSettings
from rockbot.settings_sources import Source, agent_places, is_setting, merge, read_agents, read_secrets, read_toml
from rockbot.settings_streaming import StreamingSettings
from rockbot.settings_telemetry import TelemetrySettings
from rockbot.settings_tools import ToolSettings
from rockbot_messaging.topics import check_word

__all__ = [
    "DEFAULT_HANDLERS",
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


#: The handlers that come with RockBot, in their order, and the word among `handlers` that stands for them.
DEFAULT_HANDLERS: Final = (
    "telemetry", "logging", "deadline", "deduplication", "limits", "agent", "llm", "tools", "scripts",
)  # fmt: skip
DEFAULT: Final = "default"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

    `allow_model_calls` false has every call to a real model fail at once, with its name; the scripted one answers as ever.
    `default` among `handlers` stands for all that come with RockBot. `scripts` is read by the script service, which validates it
    by its own model at boot. `model` empty means the offline
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
    handlers: tuple[str, ...] = DEFAULT_HANDLERS
    agents: dict[str, AgentSettings] = Field(default_factory=lambda: {"assistant": AgentSettings()})
    agent_files: AgentFileSettings = AgentFileSettings()
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    tiers: TierSettings = TierSettings()
    backends: dict[str, BackendSettings] = Field(default_factory=dict)
    prices: PricesSettings = PricesSettings()
    limits: LimitsSettings = LimitsSettings()
    host: HostSettings = HostSettings()
    scripts: dict[str, Any] = Field(default_factory=dict)
    broker: BrokerSettings = BrokerSettings()
    subscriptions: dict[str, SubscriptionSettings] = Field(default_factory=dict)
    letters: LetterSettings = LetterSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    tools: ToolSettings = ToolSettings()
    signing: SigningSettings = SigningSettings()
    trust: TrustSettings = TrustSettings()
    anthropic: AnthropicSettings = AnthropicSettings()
    providers: dict[str, OpenAiSettings] = Field(default_factory=dict)
    scripted: ScriptedSettings = ScriptedSettings()
    streaming: StreamingSettings = StreamingSettings()
    history: HistorySettings = HistorySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    allow_model_calls: bool = True
    cassette: CassetteSettings = CassetteSettings()
    source: str = "rockbot"

    _origin: _Origin = PrivateAttr(default_factory=lambda: _Origin())

    @field_validator("handlers")
    @classmethod
    def _default_is_those_that_come_with_us(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        named = (name for each in value for name in (DEFAULT_HANDLERS if each == DEFAULT else (each,)))
        return tuple(dict.fromkeys(named))

    @field_validator("namespace", "default_agent")
    @classmethod
    def _is_word(cls, value: str) -> str:
        return check_word(value)

    @field_validator("agents", "providers", "models", "backends")
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

    @model_validator(mode="after")
    def _letters_end_before_their_bodies(self) -> Settings:
        days = self.artifacts.keep_days
        letters = (self.letters.keep_days, *self.letters.keep_days_by_queue.values())
        if days and any(not 0 < kept <= days for kept in letters):
            raise ValueError(
                f"artifacts.keep_days {days:g} would take the bodies of dead letters that are kept for longer: set"
                " letters.keep_days (and every letters.keep_days_by_queue) to as many days or fewer"
            )
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

    def agent_place(self, name: str) -> AgentPlace:
        """Where an agent is defined."""
        return self._origin.places.get(name, AgentPlace())

    def reread(self) -> Settings | None:
        """The settings as the same sources give them now; None when these were not read from any.

        Raises:
            ConfigError: as `load`.
        """
        return None if self._origin.reread is None else self._origin.reread()


@final
@dataclass(frozen=True, slots=True)
class _Origin:
    """Where settings were read; equal settings are equal wherever they come from."""

    places: dict[str, AgentPlace] = field(default_factory=dict, compare=False)
    reread: Callable[[], Settings] | None = field(default=None, compare=False)


def _state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "rockbot")


def load(flags: dict[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """Read all sources.

    `config` names the file and must exist; without it ``ROCKBOT_CONFIG``, then `rockbot.toml` in the working folder, if any.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is wrong; the text names key, source and line.
    """
    sources: list[Source] = []
    named = config or (Path(os.environ["ROCKBOT_CONFIG"]) if os.environ.get("ROCKBOT_CONFIG") else None)
    path = named or Path("rockbot.toml")
    if named is not None or path.exists():
        sources.append(read_toml(path, "the settings file"))
    files = len(sources)
    if secrets := os.environ.get("ROCKBOT_SECRETS_DIR"):
        if not Path(secrets).is_dir():
            raise ConfigError(f"ROCKBOT_SECRETS_DIR names {secrets!r}, which is no folder")
        sources.append(Source(f"secret files in {secrets}", read_secrets(Path(secrets))))
    sources.append(Source(ENVIRONMENT, _read_environment()))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    sources.append(Source("command-line flags", given))
    # Files of agents stand where the settings file does: what is nearer to one process goes before them.
    sources[files:files] = read_agents(sources, inline=sources[0] if files else None)

    merged: dict[str, Any] = {}
    for source in sources:
        merge(merged, source.values)
    try:
        settings = Settings(**merged)
    except ValidationError as exc:
        raise ConfigError(explain(exc, sources, Settings)) from None
    reread = functools.partial(load, flags, config=config)
    settings._origin = _Origin(agent_places(settings.agents, sources), reread)
    return settings


def _read_environment() -> dict[str, Any]:
    for name in filter(is_setting, os.environ):
        key = name.removeprefix("ROCKBOT_").split("__")[0].lower()
        if key not in Settings.model_fields:
            raise ConfigError(
                f"the environment variable {name} sets no setting: there is no key {key!r}{near(key, (), Settings)}"
            )
    try:
        return dict(EnvSettingsSource(Settings)())
    except SettingsError as exc:
        raise ConfigError(unreadable(exc, os.environ, Settings)) from None
