"""Contributes the link that keeps limits, and what forgets their old days, where there are any."""

from __future__ import annotations

import datetime
from functools import partial

from rockbot.agents.roster import AgentSet
from rockbot.catalogue.prices import PriceTable
from rockbot.chain import Order
from rockbot.errors import ConfigError
from rockbot.plugins import Contribution, Link, Loop, Services
from rockbot.settings_models import LimitsSettings
from rockbot_handlers.limits.accounts import allowances
from rockbot_handlers.limits.link import LimitsLink
from rockbot_handlers.limits.measuring import LOOK_SECONDS, LimitMeasures
from rockbot_handlers.limits.old_days import EVERY_SECONDS, OldDays

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Limits of agents, users, tenants and of everything.

    Raises:
        ConfigError: a limit names an agent that there is none of, or money is limited and a model has no price.
    """
    settings = services.settings
    limits = settings.limits
    if not limits.given:
        return Contribution()
    prices = PriceTable.load(settings.prices)

    def check(new: AgentSet) -> None:
        _check_names(limits, new)
        day = datetime.datetime.fromtimestamp(services.clock.now_ms() / 1000, datetime.UTC).date()
        _check_prices(limits, new, prices, day)

    check(services.agents.current)
    services.agents.check(check)
    measures = LimitMeasures(services.measures)
    link = LimitsLink(limits, services.state, services.ledger, prices, measures)
    days = OldDays(services.state, owner=services.owner)
    return Contribution(
        links=(Link(Order.LIMITS, "limits", link),),
        loops=(
            Loop("old days of limits", days.sweep, EVERY_SECONDS),
            Loop("a new day of limits", partial(measures.look, services.state), LOOK_SECONDS),
        ),
    )


def _check_names(limits: LimitsSettings, agents: AgentSet) -> None:
    for name in limits.agents:
        if name != "*" and name not in agents.agents:
            known = ", ".join(sorted(agents.agents))
            raise ConfigError(f"setting 'limits.agents.{name}': there is no agent {name!r} (agents: {known})")


def _check_prices(limits: LimitsSettings, agents: AgentSet, prices: PriceTable, day: datetime.date) -> None:
    """A limit of money that cannot be kept is found at the start, not by the bill."""
    for_anybody = any(section.money is not None for section in (*limits.users.values(), *limits.tenants.values()))
    for model, users in agents.catalogue.used.items():
        if prices.price(model, day) is not None:
            continue
        for agent in users:
            limited = [it for it in allowances(limits, agent=agent, user="", tenant="") if it.counted == "money"]
            if limited or for_anybody:
                which = limited[0].setting if limited else "limits"
                raise ConfigError(
                    f"setting '{which}' limits money, but the model {model!r} of agent {agent!r} has no price: set"
                    f' prices.models."{model}"'
                )
