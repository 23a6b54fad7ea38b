"""Which providers there are, and the clients for those that the configured agents use.

A provider's package must be there when an agent names it, and is imported after the start (see `deferred`). Everything that can
be wrong about a model's name or a provider's settings is wrong here, at start, with the agent's name in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Final

from rockbot.catalogue.catalogue import Catalogue
from rockbot.errors import ConfigError, MissingExtra
from rockbot.llm import LlmClient
from rockbot.settings import OpenAiSettings, Settings
from rockbot_handlers.llm.anthropic_access import anthropic_access
from rockbot_handlers.llm.deferred import DeferredClients
from rockbot_handlers.llm.http_access import check_environment
from rockbot_handlers.llm.presets import PRESETS, endpoint_of
from rockbot_handlers.llm.stand_ins import stood_in

__all__ = ["PROVIDERS", "open_clients"]

#: From settings, the models in use with the agents that use them, and where clients are deferred, to a client.
Opener = Callable[[Settings, Mapping[str, Sequence[str]], DeferredClients], LlmClient]


def open_clients(
    settings: Settings, catalogue: Catalogue | None = None, deferred: DeferredClients | None = None
) -> dict[str, LlmClient]:
    """One client per provider that calls of agents may go to; `catalogue` None is that of the settings.

    Those that import an SDK are `deferred`; without it their first calls open them.

    Raises:
        ConfigError: a model names no known provider or script, or a provider's settings are wrong.
        MissingExtra: a provider's package is not installed.
    """
    known = _known(settings)
    deferred = deferred or DeferredClients()
    models: dict[str, dict[str, list[str]]] = {}
    for name, agents in (catalogue or Catalogue(settings)).used.items():
        provider, _, model = name.partition("/")
        if provider not in known:
            raise ConfigError(
                f"the model {name!r} of {_agents(agents)} is of no known provider: there is no provider {provider!r}"
                f" (known: {_listed(known)}); one of your own needs providers.{provider}.base_url"
            )
        models.setdefault(provider, {})[model] = agents
    for name in settings.backends:
        if name not in known:
            raise ConfigError(f"setting 'backends.{name}': there is no provider {name!r} (known: {_listed(known)})")
    return {
        provider: stood_in(settings, provider, partial(known[provider], settings, used, deferred))
        for provider, used in models.items()
    }


def _agents(names: Sequence[str]) -> str:
    return f"agent {', '.join(map(repr, names))}"


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


def _all(models: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(agent for agents in models.values() for agent in agents))


def _listed(known: Mapping[str, Opener]) -> str:
    return ", ".join(sorted(known))


def _scripted(settings: Settings, models: Mapping[str, Sequence[str]], _: DeferredClients) -> LlmClient:
    from rockbot_handlers.llm.scripted import open_scripted

    client = open_scripted(settings)
    for model, agents in models.items():
        try:
            client.check(model)
        except ConfigError as exc:
            raise ConfigError(f"{_agents(agents)} uses model 'scripted/{model}', but {exc}") from None
    return client


def _anthropic(settings: Settings, models: Mapping[str, Sequence[str]], deferred: DeferredClients) -> LlmClient:
    _check_installed("anthropic", models)
    check_environment()
    access = anthropic_access(settings.anthropic)

    def open_client() -> LlmClient:
        from rockbot_handlers.llm.anthropic import AnthropicClient

        return AnthropicClient(access)

    return deferred.defer("anthropic", access, open_client)


def _openai(name: str, settings: Settings, models: Mapping[str, Sequence[str]], deferred: DeferredClients) -> LlmClient:
    _check_installed("openai", models)
    check_environment()
    endpoint = endpoint_of(name, settings.providers.get(name, OpenAiSettings()))

    def open_client() -> LlmClient:
        from rockbot_handlers.llm.openai import OpenAiClient

        return OpenAiClient(endpoint)

    return deferred.defer(name, endpoint, open_client)


def _check_installed(sdk: str, models: Mapping[str, Sequence[str]]) -> None:
    if any(find_spec(module) is None for module in (sdk, "httpx2")):
        raise MissingExtra(f"the model of {_agents(_all(models))}", sdk)


#: Provider name to the function that opens its client, given the models in use.
PROVIDERS: Final[Mapping[str, Opener]] = {
    "anthropic": _anthropic,
    "scripted": _scripted,
    **{name: partial(_openai, name) for name in PRESETS},
}
