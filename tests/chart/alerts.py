"""The chart's alerts, made from the table of metrics. Each says which command to run next.

What a release decides stands between at-signs and is put in by the template: `namespace`, `scaledToZero` (a pattern of
subscriptions whose workers may all be gone while nothing waits), and the bounds of the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from rockbot.telemetry.metrics import METRICS
from rockbot_messaging.measures import Names

__all__ = ["ALERTS", "Alert", "groups", "metric"]


def metric(name: str, *matchers: str, suffix: str = "") -> str:
    """A selector of the metric counted under this name."""
    return f"{METRICS[name].prometheus}{suffix}{{{', '.join(matchers)}}}"


@final
@dataclass(frozen=True, slots=True)
class Alert:
    """One rule; `run` is the command that shows what is the matter."""

    name: str
    expr: str
    lasts: str
    severity: Literal["warning", "critical"]
    summary: str
    description: str
    run: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        said = {"summary": self.summary, "description": f"{self.description} Run: {self.run}", "command": self.run}
        labels = {"severity": self.severity}
        return {"alert": self.name, "expr": self.expr, "for": self.lasts, "labels": labels, "annotations": said}


_HERE = 'namespace="@namespace@"'
_SETTLED = metric(Names.SETTLED, _HERE)
_RETRIED = metric(Names.SETTLED, _HERE, 'outcome="retry"')
_BROKEN = metric(Names.SCRIPT_RUNS, _HERE, 'outcome=~"crashed|unavailable"')
_READY = metric(Names.SCRIPT_WORKERS, _HERE, 'state="ready"')
_CONSUMERS = metric(Names.QUEUE_CONSUMERS, _HERE)
_STEADY = metric(Names.QUEUE_CONSUMERS, _HERE, 'subscription!~"@scaledToZero@"')
_STALLED = metric(Names.TURN_OLDEST, _HERE, 'state="stalled"')
_MISSING = metric(Names.SCRIPT_WORKERS, _HERE, 'state="missing"')
_DEPTH = metric(Names.QUEUE_DEPTH, _HERE)


def _by(*labels: str) -> str:
    return f"by (namespace, {', '.join(labels)})" if labels else "by (namespace)"


ALERTS: Sequence[Alert] = (
    Alert(
        "RockBotNotConnected",
        f"absent({metric(Names.CONNECTED, _HERE)} == 1)",
        "5m",
        "critical",
        "No process of RockBot is connected to its broker",
        "Nothing is handled; tasks wait in the broker.",
        "rockbot doctor",
    ),
    Alert(
        "RockBotNoConsumer",
        f"max {_by('subscription')} ({_STEADY}) == 0",
        "3m",
        "critical",
        "Nobody consumes {{ $labels.subscription }}",
        "Messages for it wait. Workers that may be scaled to zero are told by RockBotWorkWaits.",
        "rockbot doctor",
    ),
    Alert(
        "RockBotWorkWaits",
        f"max {_by('subscription')} ({_DEPTH}) > 0 and max {_by('subscription')} ({_CONSUMERS}) == 0",
        "10m",
        "critical",
        "{{ $value }} messages wait for {{ $labels.subscription }} and nobody comes",
        "Its workers should have been started by what waits.",
        "rockbot doctor",
    ),
    Alert(
        "RockBotOldDeadLetter",
        f"max {_by('queue')} ({metric(Names.DEAD_LETTER_AGE, _HERE)}) > @deadLetterSeconds@",
        "5m",
        "warning",
        "A dead letter of {{ $labels.queue }} waits for somebody",
        "The oldest died {{ $value | humanizeDuration }} ago.",
        "rockbot dlq list {{ $labels.queue }}",
    ),
    Alert(
        "RockBotStuckTurn",
        f"max {_by('agent')} ({_STALLED}) > @stalledSeconds@",
        "1m",
        "warning",
        "A turn of {{ $labels.agent }} stands still",
        "One of its steps is a dead letter, for {{ $value | humanizeDuration }}; it goes on when the letter is sent on.",
        "rockbot turn list --agent {{ $labels.agent }} --status stalled",
    ),
    Alert(
        "RockBotLimitNearlyUsed",
        f"min {_by('limit')} ({metric(Names.LIMIT_LEFT, _HERE)}) < @limitLeft@",
        "1m",
        "warning",
        "{{ $value | humanizePercentage }} of {{ $labels.limit }} are left today",
        "Calls beyond it are refused until midnight UTC.",
        "rockbot costs --by agent --days 1",
    ),
    Alert(
        "RockBotRetryStorm",
        f"sum {_by('subscription')} (rate({_RETRIED}[10m])) > 0.05 and "
        f"sum {_by('subscription')} (rate({_RETRIED}[10m])) / sum {_by('subscription')} (rate({_SETTLED}[10m])) > 0.5",
        "5m",
        "warning",
        "{{ $labels.subscription }} retries more than it handles",
        "{{ $value }} retries a second; what fails again and again becomes dead letters.",
        "rockbot doctor",
    ),
    Alert(
        "RockBotSandboxCrashLoop",
        f"sum {_by()} (increase({_BROKEN}[10m])) > 3 or sum {_by()} ({_READY}) == 0 and sum {_by()} ({_MISSING}) > 0",
        "2m",
        "critical",
        "Sandboxes crash or cannot be started",
        "Scripts are answered as failed, or wait.",
        "rockbot doctor",
    ),
)


def groups() -> list[dict[str, Any]]:
    """The groups of a PrometheusRule."""
    return [{"name": "rockbot", "rules": [alert.rule() for alert in ALERTS]}]
