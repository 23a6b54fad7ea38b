"""Which providers there are, and the clients for those that the configured agents use.

A provider's package is imported only when an agent names it. Everything that can be wrong about a model's name or a
provider's settings is wrong here, at start, with the agent's name in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from rockbot.errors import ConfigError, MissingExtra
from rockbot.llm import LlmClient
from rockbot.settings import OpenAiSettings, Settings
from rockbot_handlers.llm.presets import PRESETS

__all__ = ["PROVIDERS", "open_clients", "split_model"]


Opener = Callable[[Settings, Mapping[str, str]], LlmClient]


def split_model(name: str) -> tuple[str, str]:
    """Provider and model of ``<provider>/<model>``; the model may have slashes of its own.

    Raises:
        ValueError: one of the two is missing.
    """
    provider, _, model = name.partition("/")
    if not provider or not model:
        raise ValueError(f"{name!r} is no model: write <provider>/<model>")
    return provider, model


def open_clients(settings: Settings) -> dict[str, LlmClient]:
    """One client per provider in use.

    Raises:
        ConfigError: an agent's model names no known provider or script, or a provider's settings are wrong.
        MissingExtra: a provider's package is not installed.
    """
    known = _known(settings)
    models: dict[str, dict[str, str]] = {}
    for agent, configured in settings.agents.items():
        name = settings.agent_model(configured)
        try:
            provider, model = split_model(name)
        except ValueError as exc:
            raise ConfigError(f"agent {agent!r}: {exc} (known providers: {_listed(known)})") from None
        if provider not in known:
            raise ConfigError(
                f"agent {agent!r} uses model {name!r}, but there is no provider {provider!r} (known: {_listed(known)}); "
                f"one of your own needs providers.{provider}.base_url"
            )
        models.setdefault(provider, {})[agent] = model
    return {provider: known[provider](settings, agents) for provider, agents in models.items()}


def _known(settings: Settings) -> dict[str, Opener]:
    """The built-in providers and those of the settings.

    Raises:
        ConfigError: a provider of the settings has the name of one that is set elsewhere, or no address.
    """
    for name, provider in settings.providers.items():
        if name in PROVIDERS and name not in PRESETS:
            raise ConfigError(f"providers.{name}: {name!r} is set under [{name}]; choose another name")
        if name not in PRESETS and not provider.base_url:
            raise ConfigError(
                f"providers.{name} needs a base_url (only {', '.join(sorted(PRESETS))} have one of their own)"
            )
    return dict(PROVIDERS) | {name: partial(_openai, name) for name in settings.providers}


def _listed(known: Mapping[str, Opener]) -> str:
    return ", ".join(sorted(known))


def _scripted(settings: Settings, models: Mapping[str, str]) -> LlmClient:
    from rockbot_handlers.llm.scripted import open_scripted

    client = open_scripted(settings)
    for agent, model in models.items():
        try:
            client.check(model)
        except ConfigError as exc:
            raise ConfigError(f"agent {agent!r} uses model 'scripted/{model}', but {exc}") from None
    return client


def _anthropic(settings: Settings, models: Mapping[str, str]) -> LlmClient:
    try:
        from rockbot_handlers.llm.anthropic import open_anthropic
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("anthropic", "httpx2"):
            raise
        raise MissingExtra(f"the model of agent {', '.join(map(repr, models))}", "anthropic") from None
    return open_anthropic(settings.anthropic)


def _openai(name: str, settings: Settings, models: Mapping[str, str]) -> LlmClient:
    try:
        from rockbot_handlers.llm.openai import open_openai
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("openai", "httpx2"):
            raise
        raise MissingExtra(f"the model of agent {', '.join(map(repr, models))}", "openai") from None
    return open_openai(name, settings.providers.get(name, OpenAiSettings()))


#: Provider name to the function that opens its client, given the models of the agents that use it.
PROVIDERS: Final[Mapping[str, Opener]] = {
    "anthropic": _anthropic,
    "scripted": _scripted,
    **{name: partial(_openai, name) for name in PRESETS},
}
