"""The table of metrics: every name that is counted under, with its kind, unit, labels and what it says.

Prometheus' text, the OTLP export, dashboards and alert rules are made of it; what is counted under a name that is not here
is shown nowhere. Labels have few values: names from the configuration, words of ours, never ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from rockbot_messaging.measures import Names

__all__ = ["METRICS", "Kind", "Metric", "prometheus_name"]

Kind = Literal["counter", "gauge", "histogram"]

#: Units as OpenTelemetry writes them, and as Prometheus ends names with them.
_SUFFIXES: Final = {"s": "seconds", "1": "ratio"}


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `unit` is UCUM: ``s``, ``1`` for a share, a word in braces for what is counted, "" for none."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus' text."""
        return prometheus_name(self)


def prometheus_name(metric: Metric) -> str:
    """Dots become underscores, then the unit, then ``_total`` for counters."""
    name = metric.name.replace(".", "_")
    if suffix := _SUFFIXES.get(metric.unit):
        name += f"_{suffix}"
    return f"{name}_total" if metric.kind == "counter" else name


_TABLE: Final = (
    Metric(Names.SETTLED, "counter", "{message}", "Deliveries by what became of them.", ("subscription", "outcome")),
    Metric(Names.DUPLICATES, "counter", "{message}", "Copies of messages that were handled before.", ("subscription",)),
    Metric(Names.DEAD_LETTERS, "counter", "{message}", "Messages that became dead letters.", ("subscription", "error")),
    Metric(Names.DEAD_LETTER_DEPTH, "gauge", "{message}", "Dead letters that wait for somebody.", ("queue",)),
    Metric(Names.DEAD_LETTER_AGE, "gauge", "s", "Age of the oldest dead letter.", ("queue",)),
    Metric(Names.LETTERS_WORKED, "counter", "{message}", "Dead letters that were worked on.", ("queue", "action")),
    Metric(Names.OUTAGE, "gauge", "", "1 while a subscription only probes.", ("subscription",)),
    Metric(Names.RATE_LIMITED, "counter", "{message}", "Deliveries that waited for a rate limit.", ("subscription",)),
    Metric(Names.POISONED, "counter", "{message}", "Messages that kept killing processes.", ("subscription",)),
    Metric(Names.LATE_REPLIES, "counter", "{message}", "Replies that came after their request had given up."),
    Metric(Names.CLAIMS, "counter", "{body}", "Large bodies stored aside and read back.", ("direction",)),
    Metric(Names.UNTRUSTED, "counter", "{message}", "Messages refused because of who sent them.", ("cause",)),
    Metric(Names.QUEUE_DEPTH, "gauge", "{message}", "Messages that wait in a work queue.", ("subscription",)),
    Metric(Names.QUEUE_CONSUMERS, "gauge", "{consumer}", "Consumers of a work queue, of all processes.",
           ("subscription",)),
    Metric(Names.QUEUE_WAIT, "histogram", "s", "Age of messages when they are handled first.", ("subscription",)),
    Metric(Names.CONNECTED, "gauge", "", "1 while the connection to the broker stands."),
    Metric(Names.IDLE, "gauge", "s", "How long a subscription has had no consumer; 0 while it has.", ("subscription",)),
    Metric(Names.HANDLED, "histogram", "s", "Time in the handlers of a message.", ("subscription", "event")),
    Metric(Names.TURNS, "counter", "{task}", "Tasks that came to their end.", ("agent", "status")),
    Metric(Names.TURN_DURATION, "histogram", "s", "Time from a task to its end.", ("agent", "status")),
    Metric(Names.TURNS_OPEN, "gauge", "{task}", "Tasks under way.", ("agent", "state")),
    Metric(Names.TURN_OLDEST, "gauge", "s", "How long the longest has been in its state.", ("agent", "state")),
    Metric(Names.TURN_STEPS, "counter", "{step}", "Replies of models that became part of turns.", ("agent",)),
    Metric(Names.TURN_STALLS, "counter", "{call}", "Calls that died, so that their turn stands still.", ("agent",)),
    Metric(Names.TURN_RESUMES, "counter", "{turn}", "Turns that went on after they stood still.", ("agent",)),
    Metric(Names.MODEL_CALLS, "counter", "{call}", "Model calls that were made.", ("provider", "model", "outcome")),
    Metric(Names.MODEL_DURATION, "histogram", "s", "Time of model calls.", ("provider", "model")),
    Metric(Names.MODEL_TOKENS, "counter", "{token}", "Tokens as providers count them.", ("provider", "model", "kind")),
    Metric(Names.MODEL_COST, "counter", "{money}", "What model calls took, in the currency of the prices.",
           ("provider", "model")),
    Metric(Names.TOOL_CALLS, "counter", "{call}", "Tool calls that were made.", ("tool", "outcome")),
    Metric(Names.TOOL_DURATION, "histogram", "s", "Time of tool calls.", ("tool",)),
    Metric(Names.LIMIT_LEFT, "gauge", "1", "The part of a day's limit that is left.", ("limit",)),
    Metric(Names.LIMIT_REFUSALS, "counter", "{call}", "Calls that a limit forbade.", ("limit",)),
    Metric(Names.SCRIPT_RUNS, "counter", "{run}", "Runs of scripts.", ("runtime", "outcome")),
    Metric(Names.SCRIPT_DURATION, "histogram", "s", "Time of runs, waiting for a sandbox included.", ("runtime",)),
    Metric(Names.SCRIPT_WORKERS, "gauge", "{sandbox}", "Sandboxes of the pool.", ("state",)),
    Metric(Names.SCRIPT_REPLACED, "counter", "{sandbox}", "Sandboxes that ended and were replaced."),
)  # fmt: skip

#: Every metric, by name.
METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _TABLE}
