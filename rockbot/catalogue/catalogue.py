"""The model catalogue: every name that a setting gives a model resolves here, or is an error that names the setting.

A name is ``<provider>/<model>``, an alias of ``[models]``, a tier, or ``auto``, which leaves the tier to rules. The outcome is
data (`rockbot.catalogue.routes`); nothing is connected to here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from rockbot.catalogue.routes import ROLES, TIERS, CallLane, Choice, ModelRoute, ModelStep, Role, Tier, choose
from rockbot.errors import ConfigError
from rockbot.settings import Settings
from rockbot.settings_models import AUTO, ModelSettings, TierRuleSettings

__all__ = ["Catalogue", "Explanation", "Named", "split_model"]


def split_model(name: str) -> tuple[str, str]:
    """Provider and model of ``<provider>/<model>``; the model may have slashes of its own.

    Raises:
        ValueError: one of the two is missing.
    """
    provider, _, model = name.partition("/")
    if not provider or not model:
        raise ValueError(f"{name!r} is no model: write <provider>/<model>")
    return provider, model


@final
@dataclass(frozen=True, slots=True)
class Named:
    """A name and what it stands for; `kind` is model, alias or tier."""

    name: str
    kind: str
    route: ModelRoute


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """A choice, and what was asked on the way to it, line by line."""

    choice: Choice
    lines: tuple[str, ...]


@final
class Catalogue:
    """The models of one host's settings.

    Raises:
        ConfigError: a setting names a model that there is none of, or a tier without one; the text names the setting.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tiers = settings.tiers
        self._check_aliases()
        self._aliases = {name: self._alias(name, model) for name, model in settings.models.items()}
        for tier, name in self._tiers.named.items():
            self._chain(name, f"tiers.{tier}")
        for at, rule in enumerate(self._tiers.rules):
            self._check_rule(at, rule)
        self._routes: dict[tuple[str, Role], tuple[ModelRoute, ...]] = {}
        for agent in settings.agents:
            for role in self.roles(agent):
                self._routes[agent, role] = self._routes_of(agent, role)

    # -- what an agent's calls go to ----------------------------------------------------------------------------------

    def roles(self, agent: str) -> list[Role]:
        """The roles that an agent names a model for; `main` always is one."""
        its = self._settings.agents[agent]
        return [role for role in ROLES if role == "main" or role in its.models]

    def routes(self, agent: str, role: Role = "main") -> tuple[ModelRoute, ...]:
        """The routes of an agent's calls in a role, the first one that fits counts. A role without a model takes `main`'s."""
        return self._routes.get((agent, role)) or self._routes[agent, "main"]

    def explain(self, agent: str, *, role: Role = "main", lane: CallLane, tokens: int) -> Explanation:
        """Which model a call goes to, and every rule that was asked."""
        key, name = self._name(agent, role)
        lines = [f"{key} = {name!r}"]
        if name == AUTO:
            for at, rule in enumerate(self._tiers.rules):
                missed = _misses(rule, agent, role) or self._rule_route(at, rule).misses(lane, tokens)
                lines.append(f"rule {at + 1}, tier {rule.tier}: {missed or 'fits'}")
                if not missed:
                    break
            else:
                lines.append(f"no rule fits: tier {self._tiers.default}, the default")
        choice = choose(self.routes(agent, role), lane=lane, tokens=tokens)
        lines.append(f"{choice.model}: {choice.why}")
        lines += [f"then {model}, after: {', '.join(choice.fall_on)}" for model in choice.fallbacks]
        return Explanation(choice, tuple(lines))

    # -- everything there is ------------------------------------------------------------------------------------------

    @property
    def named(self) -> list[Named]:
        """Tiers, aliases, and the models that agents name outright, each with its chain."""
        tiers = [Named(tier, "tier", self._route(name, "")) for tier, name in self._tiers.named.items()]
        aliases = [Named(name, "alias", route) for name, route in self._aliases.items()]
        plain = {
            name
            for agent in self._settings.agents
            for role in self.roles(agent)
            for _, name in [self._name(agent, role)]
        }
        models = [Named(name, "model", self._route(name, "")) for name in sorted(plain) if "/" in name]
        return [*tiers, *aliases, *models]

    @property
    def used(self) -> Mapping[str, list[str]]:
        """Every model that calls of agents may go to, fallbacks included, with the agents that it is for."""
        found: dict[str, list[str]] = {}
        for (agent, _), routes in self._routes.items():
            for step in (step for route in routes for step in route.steps):
                agents = found.setdefault(step.model, [])
                if agent not in agents:
                    agents.append(agent)
        return found

    @property
    def backends(self) -> list[str]:
        """The providers that calls may go to."""
        return list(dict.fromkeys(model.partition("/")[0] for model in self.used))

    # -- resolving ----------------------------------------------------------------------------------------------------

    def _name(self, agent: str, role: Role) -> tuple[str, str]:
        """The setting that counts for an agent's role, and its value."""
        its = self._settings.agents[agent]
        if role in its.models:
            return f"agents.{agent}.models.{role}", its.models[role]
        return (f"agents.{agent}.model", its.model) if its.model else ("model", self._settings.model_name)

    def _routes_of(self, agent: str, role: Role) -> tuple[ModelRoute, ...]:
        key, name = self._name(agent, role)
        if name != AUTO:
            self._chain(name, key, agent=agent)
            return (self._route(name, f"{key} is {name!r}"),)
        rules = [
            self._rule_route(at, rule) for at, rule in enumerate(self._tiers.rules) if not _misses(rule, agent, role)
        ]
        default = self._tiers.model(self._tiers.default)
        if default is None:
            raise ConfigError(
                f"setting {key!r} of agent {agent!r} is {AUTO!r}, but the tier {self._tiers.default!r} has no model: set"
                f" tiers.{self._tiers.default}"
            )
        return (*rules, self._route(default, f"tier {self._tiers.default}, the default"))

    def _rule_route(self, at: int, rule: TierRuleSettings) -> ModelRoute:
        route = self._route(self._tiers.model(rule.tier) or "", f"tier {rule.tier}, by rule {at + 1} of the tiers")
        return route.model_copy(
            update={
                "lanes": rule.lanes,
                "min_input_tokens": rule.min_input_tokens,
                "max_input_tokens": rule.max_input_tokens,
            }
        )

    def _route(self, name: str, why: str) -> ModelRoute:
        """The chain of a name that was checked."""
        if name in TIERS:
            return self._route(self._tiers.named[_tier(name)], why)
        route = self._aliases.get(name) or ModelRoute(steps=(ModelStep(model=name),))
        return route.model_copy(update={"why": why})

    def _alias(self, name: str, model: ModelSettings) -> ModelRoute:
        key = f"models.{name}"
        self._check_plain(model.model, f"{key}.model")
        steps = [ModelStep(model=model.model, context_window=model.context_window)]
        for fallback in model.fallbacks:
            other = self._settings.models.get(fallback)
            if other is None:
                self._check_plain(fallback, f"{key}.fallbacks")
            step = (
                ModelStep(model=fallback)
                if other is None
                else ModelStep(model=other.model, context_window=other.context_window)
            )
            if step.model in [known.model for known in steps]:
                raise ConfigError(
                    f"setting '{key}.fallbacks' names {step.model!r} twice: a chain tries each model once"
                )
            steps.append(step)
        return ModelRoute(steps=tuple(steps), fall_on=model.fall_on)

    def _chain(self, name: str, key: str, *, agent: str = "") -> None:
        """Whether a name stands for a model. Raises ConfigError."""
        if name in self._aliases or name in self._tiers.named:
            if name in TIERS and key.startswith("tiers."):
                raise ConfigError(f"setting '{key}' names the tier {name!r}: name a model or an alias")
            return
        self._check_plain(name, key, agent=agent)

    def _check_plain(self, name: str, key: str, *, agent: str = "") -> None:
        try:
            split_model(name)
        except ValueError:
            who = f" of agent {agent!r}" if agent else ""
            raise ConfigError(
                f"setting '{key}'{who} names {name!r}, which is no model: write <provider>/<model>"
                f"{_or_one_of([*self._settings.models, *self._tiers.named])}"
            ) from None

    def _check_aliases(self) -> None:
        for name in self._settings.models:
            if name in (*TIERS, AUTO):
                raise ConfigError(f"setting 'models.{name}': {name!r} is the name of a tier or of the choice by rules")

    def _check_rule(self, at: int, rule: TierRuleSettings) -> None:
        key = f"tiers.rules.{at}"
        if self._tiers.model(rule.tier) is None:
            raise ConfigError(f"setting '{key}.tier' is {rule.tier!r}, which has no model: set tiers.{rule.tier}")
        if unknown := [agent for agent in rule.agents if agent not in self._settings.agents]:
            known = ", ".join(sorted(self._settings.agents))
            raise ConfigError(f"setting '{key}.agents' names {unknown[0]!r}, which is no agent (agents: {known})")


def _misses(rule: TierRuleSettings, agent: str, role: Role) -> str:
    """Why a rule is not for an agent's role at all; empty when it may be."""
    if rule.roles and role not in rule.roles:
        return f"it is for the role {' or '.join(rule.roles)}, not {role}"
    if rule.agents and agent not in rule.agents:
        return f"it is for the agent {' or '.join(rule.agents)}, not {agent}"
    return ""


def _tier(name: str) -> Tier:
    return next(tier for tier in TIERS if tier == name)


def _or_one_of(names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return f", or one of {known}" if known else ""
