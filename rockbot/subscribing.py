"""The section ``[subscriptions]`` over what handlers contribute: each key has its effect, and a misspelt name is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rockbot.errors import ConfigError
from rockbot.settings_delivery import SubscriptionSettings
from rockbot_messaging.regulation.rates import LONGEST_WAIT, most_in_hand
from rockbot_messaging.subscriptions import OutageGuard, Rate, Subscription, WorkSubscription

__all__ = ["adjusted", "check_names"]


def check_names(settings: Mapping[str, SubscriptionSettings], known: Iterable[Subscription]) -> None:
    """Whether every configured name is that of a work subscription.

    Raises:
        ConfigError: one is not; the text lists those there are.
    """
    kinds = {item.name: isinstance(item, WorkSubscription) for item in known}
    for name in settings:
        if kinds.get(name):
            continue
        if name in kinds:
            raise ConfigError(f"setting 'subscriptions.\"{name}\"': {name} only watches, there is nothing to set")
        names = ", ".join(sorted(name for name, work in kinds.items() if work)) or "none"
        raise ConfigError(f"setting 'subscriptions' names {name!r}, which no handler receives (received: {names})")


def adjusted(
    subscription: WorkSubscription, settings: Mapping[str, SubscriptionSettings], *, consumed: bool = True
) -> WorkSubscription:
    """The subscription as the settings want it.

    One with a rate holds no more than can be begun within ten minutes, so that nothing comes near the broker's consumer
    timeout. `consumed` False is for one that is only addressed: how its consumer holds it is not known here.

    Raises:
        ConfigError: two values contradict each other; the text says which, and what to do.
    """
    section = settings.get(subscription.name, SubscriptionSettings())
    try:
        made = dataclasses.replace(subscription, **_given(section, subscription))
    except ValueError as exc:
        raise _wrong(subscription.name, str(exc)) from None
    if consumed:
        _check(made, section)
        if made.rate is not None:
            made = dataclasses.replace(made, prefetch=min(made.prefetch, most_in_hand(made.rate)))
    return made


def _given(section: SubscriptionSettings, subscription: WorkSubscription) -> dict[str, Any]:
    given: dict[str, Any] = {"retry": section.retry.over(subscription.retry)}
    if section.prefetch is not None:
        given["prefetch"] = section.prefetch
    if section.concurrency is not None:
        given["concurrency"] = section.concurrency
    if section.rate is not None:
        given["rate"] = Rate(per_second=section.rate.per_second, burst=section.rate.burst)
    if section.order is not None:
        given["ordered"] = section.order.ordered()
    if (guard := section.guard) is not None:
        given["guard"] = (
            OutageGuard(failures=guard.failures, probe=guard.probe_seconds, longest=guard.longest_seconds)
            if guard.failures
            else None
        )
    if section.remember_seconds is not None:
        given["remember"] = section.remember_seconds or None
    return given


def _check(made: WorkSubscription, section: SubscriptionSettings) -> None:
    if section.concurrency is not None and section.concurrency > made.prefetch:
        raise _wrong(
            made.name,
            f"concurrency {section.concurrency} is above prefetch {made.prefetch}, and a process handles no more than it"
            " holds: raise prefetch or lower concurrency",
        )
    if section.prefetch is not None and made.rate is not None and section.prefetch > (most := most_in_hand(made.rate)):
        raise _wrong(
            made.name,
            f"at {made.rate.per_second:g} per second the last of {section.prefetch} prefetched messages would wait in hand"
            f" for more than {LONGEST_WAIT / 60:g} minutes: set prefetch to at most {most}, or leave it out",
        )


def _wrong(name: str, problem: str) -> ConfigError:
    return ConfigError(f"setting 'subscriptions.\"{name}\"': {problem}")
