"""Settings of models: names and chains, tiers and their rules, how much each backend takes, prices, and who may spend what."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rockbot.catalogue.routes import FALL_ON, TIERS, CallLane, FallReason, Role, Tier

__all__ = [
    "AUTO",
    "BackendSettings",
    "LimitSettings",
    "LimitsSettings",
    "ModelSettings",
    "PriceSettings",
    "PricesSettings",
    "TierRuleSettings",
    "TierSettings",
]

#: The model's name that leaves the choice to the rules of the tiers.
AUTO: Final = "auto"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(_Section):
    """A name for a model and what follows it when it fails.

    `model` is ``<provider>/<model>``. `fallbacks` are tried in this order, each by its name or as ``<provider>/<model>``;
    `fall_on` says after which failures. `context_window` is in tokens: what does not fit goes to the first fallback that it
    fits into.
    """

    model: str
    fallbacks: tuple[str, ...] = ()
    fall_on: tuple[FallReason, ...] = FALL_ON
    context_window: int | None = Field(default=None, ge=1)


class TierRuleSettings(_Section):
    """When a call takes a tier: all that is given must hold. `lanes`, `roles` and `agents` empty mean any."""

    tier: Tier
    lanes: tuple[CallLane, ...] = ()
    roles: tuple[Role, ...] = ()
    agents: tuple[str, ...] = ()
    min_input_tokens: int = Field(default=0, ge=0)
    max_input_tokens: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if self.max_input_tokens is not None and self.max_input_tokens < self.min_input_tokens:
            raise ValueError("max_input_tokens is below min_input_tokens, so no call fits")
        return self


class TierSettings(_Section):
    """A model for each tier. An agent whose model is ``auto`` takes the tier of the first rule that fits, else `default`."""

    fast: str | None = None
    balanced: str | None = None
    deep: str | None = None
    default: Tier = "balanced"
    rules: tuple[TierRuleSettings, ...] = ()

    def model(self, tier: Tier) -> str | None:
        """The model of a tier."""
        name: str | None = getattr(self, tier)
        return name

    @property
    def named(self) -> dict[Tier, str]:
        """The tiers that have a model."""
        return {tier: name for tier in TIERS if (name := self.model(tier)) is not None}


class BackendSettings(_Section):
    """How much one provider takes, from all replicas together.

    `slots` bounds the calls under way. `requests_per_minute` and `tokens_per_minute` (input and output) bound how fast calls
    begin. After `breaker_failures` failures in a row nothing is sent for `breaker_seconds`, doubling up to
    `breaker_longest_seconds`; 0 failures switches that off.
    """

    slots: int | None = Field(default=None, ge=1, le=100_000)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    breaker_failures: int = Field(default=5, ge=0, le=1000)
    breaker_seconds: float = Field(default=10, gt=0, le=3600)
    breaker_longest_seconds: float = Field(default=300, gt=0, le=86_400)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.breaker_longest_seconds < self.breaker_seconds:
            raise ValueError("breaker_longest_seconds is below breaker_seconds")
        return self


class PriceSettings(_Section):
    """What a model costs, per million tokens, from the day `since` on.

    What was read from a cache or written into one costs as much as other input unless it is given. Calls with more than
    `long_input_tokens` of input cost `long_input` and `long_output`, what concerns the cache in proportion.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)
    long_input_tokens: int | None = Field(default=None, ge=1)
    long_input: float | None = Field(default=None, ge=0)
    long_output: float | None = Field(default=None, ge=0)
    since: datetime.date = datetime.date.min

    @model_validator(mode="after")
    def _long_ones_are_whole(self) -> Self:
        given = [value is not None for value in (self.long_input_tokens, self.long_input, self.long_output)]
        if any(given) and not all(given):
            raise ValueError("long_input_tokens, long_input and long_output belong together")
        return self


class PricesSettings(_Section):
    """Prices over those that are shipped: of `models` by ``<provider>/<model>``, before those of `file`.

    `currency` None is that of the shipped table; with another one, the shipped prices do not count.
    """

    file: Path | None = None
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    models: dict[str, PriceSettings] = Field(default_factory=dict)


class LimitSettings(_Section):
    """How much may be used in one day (UTC); None is any amount. `money` is in the currency of the prices."""

    model_calls: int | None = Field(default=None, ge=0)
    tool_calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    money: float | None = Field(default=None, ge=0)


class LimitsSettings(_Section):
    """Limits of a day: of everything together (`all`), and by the names of agents, users and tenants.

    The name ``*`` stands for each one that has no section of its own.
    """

    all: LimitSettings = LimitSettings()
    agents: dict[str, LimitSettings] = Field(default_factory=dict)
    users: dict[str, LimitSettings] = Field(default_factory=dict)
    tenants: dict[str, LimitSettings] = Field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether anything is limited."""
        sections = (self.all, *self.agents.values(), *self.users.values(), *self.tenants.values())
        return any(section != LimitSettings() for section in sections)
