"""Checks of what a host stands on: settings, model, state, services."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from rockbot.catalogue.catalogue import Catalogue
from rockbot.errors import ConfigError
from rockbot.operators.checks import Probe
from rockbot.operators.models import Check
from rockbot.settings import ANTHROPIC_MODEL, Settings
from rockbot.state.ports import StateStore

__all__ = ["model_probes", "python_probe", "service_probe", "state_probe"]

#: What the adapter of a model provider needs: extra and module; all others are spoken to as OpenAI is.
_PROVIDERS: Mapping[str, tuple[str, str]] = {"anthropic": ("anthropic", "anthropic")}
_OTHERS = ("openai", "openai")


class Described(Protocol):
    """A service, as far as `doctor` asks it."""

    def describe(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Doubtful(Protocol):
    """A store that knows why it may lose what it acknowledged."""

    @property
    def doubts(self) -> Sequence[str]: ...


def python_probe() -> Check:
    """Which interpreter runs, and which release of ours."""
    from rockbot import __version__

    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check(name="version", status="ok", detail=f"rockbot {__version__} on Python {version}")


def model_probes(settings: Settings) -> list[Check]:
    """For each model that an agent uses, whether it can be called from here."""
    try:
        used = Catalogue(settings).used
    except ConfigError as exc:
        return [Check(name="model", status="fail", detail=str(exc), advice="see `rockbot models list`")]
    return [_model(settings, model, agents) for model, agents in sorted(used.items())]


def _model(settings: Settings, model: str, agents: list[str]) -> Check:
    import os

    provider = model.partition("/")[0]
    detail = f"{model} for {', '.join(sorted(agents))}"
    if provider == "scripted":
        advice = f"it is a demonstration; set ANTHROPIC_API_KEY, or ROCKBOT_MODEL={ANTHROPIC_MODEL}"
        return Check(name="model", status="ok", detail=f"{detail}: answers by rules, offline", advice=advice)
    extra, module = _PROVIDERS.get(provider, _OTHERS)
    if find_spec(module) is None:
        return Check(name="model", status="fail", detail=detail, advice=f"pip install 'rockbot[{extra}]'")
    if provider == "anthropic" and settings.anthropic.api_key is None and not os.environ.get("ANTHROPIC_API_KEY"):
        advice = "set ANTHROPIC_API_KEY, or anthropic.api_key in a secret file"
        return Check(name="model", status="warn", detail=f"{detail}: no API key here", advice=advice)
    return Check(name="model", status="ok", detail=detail)


def state_probe(store: StateStore, address: str) -> Probe:
    """Whether the state store answers, and keeps what it is told."""

    async def state() -> Check:
        await store.now_ms()
        shown = address.partition("://")[0] if "@" in address or "?" in address else address
        if address.startswith("memory:"):
            advice = "everything is lost when the process ends: set --state sqlite:///path"
            return Check(name="state", status="warn", detail=shown, advice=advice)
        if isinstance(store, Doubtful) and store.doubts:
            advice = "set appendonly yes, appendfsync always and maxmemory-policy noeviction"
            return Check(
                name="state", status="warn", detail=f"{shown}, lossy: {'; '.join(store.doubts)}", advice=advice
            )
        return Check(name="state", status="ok", detail=shown)

    return state


def service_probe(name: str, service: Described) -> Probe:
    """What a service says of itself; anything it lists as ``missing``, at any depth, is a warning."""

    async def probe() -> Check:
        facts = service.describe()
        missing = _missing(facts)
        told = [_fact(key, value) for key, value in facts.items() if key != "missing"]
        detail = "; ".join(fact for fact in told if fact) or "running"
        if missing:
            advice = f"this machine does not offer: {', '.join(missing)}"
            return Check(name=f"service {name}", status="warn", detail=detail, advice=advice)
        return Check(name=f"service {name}", status="ok", detail=detail)

    return probe


def _missing(facts: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += _missing(value)
        elif key == "missing" and value:
            found += [value] if isinstance(value, str) else [str(item) for item in value]
    return found


def _fact(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(_fact(str(name), item) for name, item in value.items() if name != "missing")
        return f"{key}: {inner}" if inner else ""
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{key} {' '.join(map(str, value))}"
    return f"{key} {value}"
