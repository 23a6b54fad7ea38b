"""When nothing is sent to a backend: a state machine without time, tasks or a store of its own.

A backend that fails several times in a row is left alone for a while, one that says "too much" for as long as it asks. After
that one call is tried, and the others wait for what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

from pydantic import BaseModel, ConfigDict

from rockbot.settings_models import BackendSettings

__all__ = ["Circuit", "Closed", "Probing", "Shut"]

#: Seconds that the others wait for the call that is tried, before one of them is tried as well.
_PROBE_SECONDS: Final = 30.0
#: Times that opening has doubled the wait, beyond which it is the longest anyway.
_MOST_DOUBLINGS: Final = 20

Cause = Literal["breaker", "throttled"]


@final
@dataclass(frozen=True, slots=True)
class Closed:
    """Calls may be made."""


@final
@dataclass(frozen=True, slots=True)
class Probing:
    """This call may be tried; `then` says so to the others."""

    then: Circuit


@final
@dataclass(frozen=True, slots=True)
class Shut:
    """No call may be made for `seconds`."""

    seconds: float
    cause: Cause


@final
class Circuit(BaseModel):
    """How one backend stands.

    `failures` are those in a row, `opened` is how often in a row it was left alone because of them. Nothing is sent before
    `until_ms`; while `doubtful`, one call at a time is, until one succeeds: `probe`, until `probe_until_ms`. `cause` and `error`
    say what it waits for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    failures: int = 0
    opened: int = 0
    until_ms: int = 0
    doubtful: bool = False
    probe: str = ""
    probe_until_ms: int = 0
    cause: Cause = "breaker"
    error: str = ""

    def admit(self, call_id: str, now_ms: int) -> Closed | Probing | Shut:
        """Whether a call may be made now."""
        if now_ms < self.until_ms:
            return Shut((self.until_ms - now_ms) / 1000, self.cause)
        if not self.doubtful:
            return Closed()
        if self.probe not in ("", call_id) and now_ms < self.probe_until_ms:
            return Shut(1.0, self.cause)
        until_ms = now_ms + round(_PROBE_SECONDS * 1000)
        return Probing(self.model_copy(update={"probe": call_id, "probe_until_ms": until_ms}))

    def succeeded(self) -> Circuit:
        """A call was answered."""
        return Circuit()

    def gave_up(self, call_id: str) -> Circuit:
        """A call that might have been tried was not made."""
        return self.model_copy(update={"probe": "", "probe_until_ms": 0}) if self.probe == call_id else self

    def failed(self, error: str, now_ms: int, settings: BackendSettings) -> Circuit:
        """A call failed, and not by its own fault."""
        if not settings.breaker_failures:
            return self
        if now_ms < self.until_ms:
            return self  # begun before the circuit was opened; it says nothing new
        failures = self.failures + 1
        if not self.doubtful and failures < settings.breaker_failures:
            return self.model_copy(update={"failures": failures})
        wait = settings.breaker_seconds * 2 ** min(self.opened, _MOST_DOUBLINGS)
        wait = min(wait, settings.breaker_longest_seconds)
        return Circuit(
            failures=failures,
            opened=self.opened + 1,
            until_ms=now_ms + round(wait * 1000),
            doubtful=True,
            error=error[:300],
        )

    def throttled(self, error: str, now_ms: int, seconds: float) -> Circuit:
        """The backend asked to be left alone for so long."""
        return self.model_copy(
            update={
                "until_ms": max(self.until_ms, now_ms + round(seconds * 1000)),
                "doubtful": True,
                "probe": "",
                "probe_until_ms": 0,
                "cause": "throttled",
                "error": error[:300],
            }
        )
