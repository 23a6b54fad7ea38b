"""``pipeline``, ``doctor`` and ``config``: looking at a host without touching it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.operators.models import Check
    from rockbot.settings import Settings

__all__ = ["register"]


class FailOn(StrEnum):
    """What `doctor` takes for a problem besides failed checks."""

    DEAD_LETTERS = "dead-letters"
    WARNINGS = "warnings"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, "pipeline")(pipeline)
    command(app, "doctor")(doctor)
    config = group(app, "config", help="Look at the settings.")
    command(config, "show")(show)
    command(config, "check")(check)


async def pipeline(call: Invocation) -> None:
    """What a host receives, the order in which its handlers see it, and what failures lead to."""
    from rockbot.buses import is_embedded
    from rockbot.cli.views import pipeline_blocks
    from rockbot.operators.faults import HostUnreachable
    from rockbot.operators.open import local_pipeline

    settings = call.settings()
    if is_embedded(settings):
        try:
            async with call.operator() as operator:
                found = await operator.pipeline()
        except HostUnreachable:
            call.screen.say("no host is running; these settings would give:", "dim")
            found = local_pipeline(settings)
    else:
        found = local_pipeline(settings)
    call.screen.show(found, pipeline_blocks(found))


async def doctor(
    call: Invocation,
    strict: Annotated[bool, typer.Option("--strict", help="The same as --fail-on warnings.")] = False,
    fail_on: Annotated[
        FailOn | None,
        typer.Option("--fail-on", help="Exit with 6 also for these: for monitoring.", show_default=False),
    ] = None,
) -> int:
    """Look for what is wrong, and say what to do. Exits with 6 when a check fails."""
    from rockbot.cli.views import diagnosis_blocks
    from rockbot.operators.checks import DEAD_LETTERS
    from rockbot.operators.faults import ExitCode
    from rockbot.operators.models import Diagnosis
    from rockbot.operators.probes import model_probes, python_probe

    settings = call.settings()
    checks = [python_probe(), *_composition(settings), *model_probes(settings), *await _host(call, settings)]
    checks += [*await _broker(settings), *_layers(settings), *await _state(settings)]
    found = Diagnosis(checks=tuple(checks))
    call.screen.show(found.checks, diagnosis_blocks(found))
    warnings = strict or fail_on is FailOn.WARNINGS
    bad = any(
        item.status == "fail"
        or (item.status == "warn" and (warnings or (fail_on is not None and item.name == DEAD_LETTERS)))
        for item in found.checks
    )
    return ExitCode.PROBLEMS if bad else ExitCode.OK


def _composition(settings: Settings) -> list[Check]:
    from rockbot.errors import ConfigError
    from rockbot.operators.models import Check
    from rockbot.operators.open import local_pipeline

    try:
        found = local_pipeline(settings)
    except ConfigError as exc:
        return [Check(name="handlers", status="fail", detail=str(exc), advice="mend the setting, or install the extra")]
    return [
        Check(
            name="handlers",
            status="ok",
            detail=f"{', '.join(settings.handlers)}: {len(found.chain)} event types, {len(found.subscriptions)} queues",
        )
    ]


async def _host(call: Invocation, settings: Settings) -> list[Check]:
    """What the host or the broker says; unreachable is a finding here."""
    from rockbot.buses import is_embedded
    from rockbot.errors import ConfigError
    from rockbot.operators.faults import HostUnreachable
    from rockbot.operators.models import Check
    from rockbot_messaging.errors import MessagingError

    name = "host" if is_embedded(settings) else "broker"
    try:
        async with call.operator(composed=True) as operator:
            return list((await operator.doctor()).checks)
    except HostUnreachable as exc:
        detail = str(exc).partition(": start one with")[0]  # that is the advice
        return [Check(name=name, status="fail", detail=detail, advice=f"{call.program} up")]
    except (MessagingError, ConfigError) as exc:
        advice = "check --broker (ROCKBOT_BROKER_URL), user, password and network"
        return [Check(name=name, status="fail", detail=str(exc), advice=advice)]


async def _broker(settings: Settings) -> list[Check]:
    """What can be said of the broker itself, also when no bus can be opened on it."""
    from rockbot.buses import is_embedded
    from rockbot.errors import ConfigError
    from rockbot.operators.broker_checks import broker_checks

    try:
        return [] if is_embedded(settings) else await broker_checks(settings)
    except ConfigError:
        return []  # another check has told what is wrong with the settings


def _layers(settings: Settings) -> list[Check]:
    """Large bodies, signatures, trust."""
    from rockbot.errors import ConfigError
    from rockbot.operators.layer_checks import layer_checks

    try:
        return layer_checks(settings)
    except (ConfigError, ValueError):
        return []  # another check has told what is wrong with the settings


async def _state(settings: Settings) -> list[Check]:
    """Whether the state store can be opened from here; an embedded host has told so itself."""
    from rockbot.buses import is_embedded
    from rockbot.operators.models import Check
    from rockbot.operators.probes import state_probe
    from rockbot.state.open import open_store
    from rockbot.state.ports import StateError
    from rockbot_messaging.clock import SystemClock

    if is_embedded(settings):
        return []
    try:
        store = open_store(settings.state_address, SystemClock())
        await store.open()
        try:
            return [await state_probe(store, settings.state_address)()]
        finally:
            await store.close()
    except StateError as exc:
        return [Check(name="state", status="fail", detail=str(exc), advice="check --state (ROCKBOT_STATE_URL)")]


def show(call: Invocation) -> None:
    """The settings in force, secrets masked."""
    from rockbot.cli.render import Facts
    from rockbot.logs import redact

    settings = call.settings()
    values: dict[str, Any] = settings.model_dump(mode="json")
    values["broker_url"] = redact(settings.broker_url.get_secret_value())
    values["state_url"] = redact(settings.state_address)
    values["socket"] = str(settings.socket_path)
    values["model"] = settings.model_name
    if call.screen.json:
        import json

        call.screen.text(json.dumps(values, ensure_ascii=False))
    else:
        call.screen.show((), [Facts(_flat(values, ""))])


def check(call: Invocation) -> None:
    """Read the settings and compose the host; exits with 3 when something is wrong."""
    from rockbot.operators.open import local_pipeline

    local_pipeline(call.settings())
    call.screen.say("the settings are valid", "good")


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            pairs.append((f"{prefix}{name}", ", ".join(map(str, value))))
        elif value is not None:
            pairs.append((f"{prefix}{name}", str(value)))
    return pairs
