"""Whose limits a call counts against, and under which keys of state.

Pure. A section of a name goes before the one of ``*``, which everybody without a section has for themselves.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from rockbot.settings_models import LimitSettings, LimitsSettings
from rockbot.state.keys import Key, key, key_parts

__all__ = ["Allowance", "Amounts", "Counted", "allowances", "day_of"]

Counted = Literal["model_calls", "tool_calls", "tokens", "money"]
Scope = Literal["all", "agents", "users", "tenants"]

#: How much a call takes of what is counted.
Amounts = Mapping[Counted, float]

_COUNTED: Final[tuple[Counted, ...]] = ("model_calls", "tool_calls", "tokens", "money")
_EVERYBODY: Final = "*"
_SPACE: Final = "limit"


@final
@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit of somebody's day."""

    scope: Scope
    name: str
    counted: Counted
    limit: float
    tenant: str
    #: Whether it comes from the section of everybody who has none of their own.
    everybody: bool = False

    @property
    def label(self) -> str:
        """What it is counted under: the setting as it is written, which names no more than the configuration does."""
        name = _EVERYBODY if self.everybody else self.name
        return self.setting if self.scope == "all" else f"limits.{self.scope}.{name}.{self.counted}"

    @property
    def setting(self) -> str:
        """What it is called where people set it."""
        return (
            f"limits.{self.scope}.{self.counted}"
            if self.scope == "all"
            else f"limits.{self.scope}.{self.name}.{self.counted}"
        )

    def key(self, day: datetime.date) -> Key:
        """Where its day is counted. Users are those of their tenant, agents and everything together belong to the host."""
        tenant = self.tenant if self.scope in ("users", "tenants") else "host"
        return key(tenant, _SPACE, day.isoformat(), self.scope, self.name, self.counted)

    def reservation(self, call_id: str, tenant: str) -> str:
        """The id under which a call reserves its part."""
        return f"limit:{self.scope}:{self.counted}:{tenant}:{call_id}"


def allowances(settings: LimitsSettings, *, agent: str, user: str, tenant: str) -> list[Allowance]:
    """Every limit that a call of this agent, for this user of this tenant, counts against."""
    found = [*_of("all", "all", settings.all, tenant)]
    named: tuple[tuple[Scope, str, Mapping[str, LimitSettings]], ...] = (
        ("agents", agent, settings.agents),
        ("users", user, settings.users),
        ("tenants", tenant, settings.tenants),
    )
    for scope, name, sections in named:
        section = sections.get(name) or sections.get(_EVERYBODY)
        if name and section is not None:
            found += _of(scope, name, section, tenant, everybody=name not in sections)
    return found


def day_of(amount: Key) -> datetime.date | None:
    """The day that an amount of the store is counted for; None when it is none of ours."""
    parts = key_parts(amount)
    try:
        return datetime.date.fromisoformat(parts[2]) if parts[1] == _SPACE else None
    except (IndexError, ValueError):
        return None


def _of(
    scope: Scope, name: str, section: LimitSettings, tenant: str, *, everybody: bool = False
) -> Iterator[Allowance]:
    for counted in _COUNTED:
        limit: float | None = getattr(section, counted)
        if limit is not None:
            yield Allowance(scope, name, counted, limit, tenant, everybody)
