"""What becomes of a message whose handling raised: one table, printable, the first row that fits decides."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from pydantic import ValidationError

from rockbot.errors import ConfigError, NewerRelease, PermanentFailure, TemporaryFailure, Unhandled
from rockbot.events.registry import InvalidEvent, UnknownType, explain
from rockbot.state.ports import StateUnavailable, VersionConflict
from rockbot_messaging.artifacts import ArtifactMissing, ArtifactsUnavailable
from rockbot_messaging.calls import CallBusy
from rockbot_messaging.errors import (
    BodyTooLarge,
    BrokerUnreachable,
    Closed,
    HeadersTooLarge,
    InvalidTopic,
    NotConfirmed,
    Unroutable,
)
from rockbot_messaging.signing import BadSignature
from rockbot_messaging.verdicts import DeadLetter, Retry, Verdict

__all__ = ["FAILURES", "UPGRADE_WINDOW", "FailureRule", "describe_failures", "verdict_of"]

#: Seconds that what a newer release wrote waits for a host that can read it.
UPGRADE_WINDOW: Final = 15 * 60
#: Characters of a traceback that travel with a message.
TRACEBACK_LIMIT: Final = 16_000
#: Classes that say nothing about an error.
_UNTOLD: Final = (object, BaseException, Exception)
#: Characters of a reason.
_REASON_LIMIT: Final = 2_000


@final
@dataclass(frozen=True, slots=True)
class FailureRule:
    """On any of `errors`: `verdict`; `outcome` says it in words.

    A message that has been failing or handed back for `window` seconds is dead-lettered instead (None: as the policy says).
    A letter that is sent on after a week has its whole window again.
    """

    errors: tuple[type[BaseException], ...]
    outcome: str
    verdict: Callable[[Exception], Verdict]
    window: float | None = None

    @property
    def names(self) -> str:
        """The error classes, for people."""
        return ", ".join(error.__name__ for error in self.errors)


def _text(exc: Exception) -> str:
    """One line that any header and any log may carry: no quoted bodies, nothing that UTF-8 cannot say."""
    text = explain(exc) if isinstance(exc, ValidationError) else str(exc)
    return _sayable(" ".join(text[: 2 * _REASON_LIMIT].split())[:_REASON_LIMIT] or type(exc).__name__)


def _sayable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _trace(exc: Exception) -> str:
    return _sayable("".join(traceback.format_exception(exc))[-TRACEBACK_LIMIT:])


def _dead(exc: Exception) -> Verdict:
    return DeadLetter(reason=_text(exc), error_type=type(exc).__name__)


def _dead_with_trace(exc: Exception) -> Verdict:
    return DeadLetter(reason=_text(exc), error_type=type(exc).__name__, traceback=_trace(exc))


def _temporary(exc: Exception) -> Verdict:
    assert isinstance(exc, TemporaryFailure)
    return Retry(after=exc.after, reason=_text(exc), counted=exc.counted, error_type=type(exc).__name__)


def _busy(exc: Exception) -> Verdict:
    assert isinstance(exc, CallBusy)
    return Retry(after=exc.seconds, reason=_text(exc), counted=False, error_type=type(exc).__name__)


def _retry(exc: Exception) -> Verdict:
    return Retry(reason=_text(exc), error_type=type(exc).__name__, traceback=_trace(exc))


def _hand_back(exc: Exception) -> Verdict:
    return Retry(reason=_text(exc), counted=False, error_type=type(exc).__name__)


FAILURES: Final[Sequence[FailureRule]] = (
    FailureRule((InvalidEvent, UnknownType, Unhandled), "dead letter at once", _dead),
    FailureRule((PermanentFailure, ConfigError, ArtifactMissing, BadSignature), "dead letter at once", _dead),
    FailureRule(
        (NewerRelease,),
        f"handed back for {UPGRADE_WINDOW // 60} minutes, costs no attempt; then dead letter",
        _hand_back,
        window=UPGRADE_WINDOW,
    ),
    FailureRule((TemporaryFailure,), "retry after the time it names, else by policy", _temporary),
    FailureRule((CallBusy,), "handed back until the claim on its call ends, costs no attempt", _busy),
    FailureRule((VersionConflict, StateUnavailable, ArtifactsUnavailable), "handed back, costs no attempt", _hand_back),
    FailureRule((BrokerUnreachable, NotConfirmed, Closed), "handed back, costs no attempt", _hand_back),
    FailureRule((BodyTooLarge, HeadersTooLarge, InvalidTopic), "dead letter at once, with traceback", _dead_with_trace),
    FailureRule((Unroutable,), "retry by policy, then dead letter", _retry),
    FailureRule((TimeoutError, ConnectionError), "retry by policy, then dead letter", _retry),
    FailureRule((Exception,), "retry by policy, then dead letter with traceback", _retry),
)


def verdict_of(exc: Exception, rules: Sequence[FailureRule] = FAILURES, *, failing_for: float = 0) -> Verdict:
    """The verdict that the first fitting rule gives on a message that has been failing for so many seconds."""
    for rule in rules:
        if isinstance(exc, rule.errors):
            verdict = rule.verdict(exc)
            if rule.window is not None and failing_for >= rule.window:
                reason = f"{_text(exc)}; no host could handle it for {rule.window / 60:g} minutes"
                return DeadLetter(reason=reason, error_type=type(exc).__name__)
            return _with_bases(verdict, exc)
    return _with_bases(_retry(exc), exc)


def _with_bases(verdict: Verdict, exc: Exception) -> Verdict:
    """The verdict with the classes that a retry policy may name instead of the error's own."""
    if not isinstance(verdict, Retry):
        return verdict
    bases = tuple(base.__name__ for base in type(exc).__mro__[1:] if base not in _UNTOLD)
    return replace(verdict, error_bases=bases) if bases else verdict


def describe_failures(rules: Sequence[FailureRule] = FAILURES) -> list[tuple[str, str]]:
    """The table as rows of (errors, outcome)."""
    return [(rule.names, rule.outcome) for rule in rules]
