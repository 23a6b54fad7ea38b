"""Why a message died, as headers of its dead letter, and back.

A content header must fit into one frame, or the broker closes the connection; so all failure headers share a budget.
What is cut says that it was cut, the least telling part first: the middle of the traceback, then the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rockbot_messaging.letters import Failure
from rockbot_messaging.rabbitmq.fields import Properties

__all__ = ["FAILURE_PREFIX", "broker_history", "failure_headers", "problem_of", "read_failure"]

FAILURE_PREFIX: Final = "rockbot-failure-"

#: What one header costs beside its value: name, type letter, lengths.
_OVERHEAD: Final = 40


def failure_headers(failure: Failure, *, budget: int, problem: str = "") -> dict[str, str | int]:
    """Headers for `failure` that together take at most `budget` bytes (at least 1024)."""
    room = budget - 12 * _OVERHEAD
    texts = {
        "reason": _clip(failure.reason, min(2000, room // 4)),
        "queue": _clip(failure.queue, 255),
        "topic": _clip(failure.topic, 255),
        "error-type": _clip(failure.error_type, 200),
        "problem": _clip(problem, min(500, room // 8)),
        "broker": _clip(failure.broker, min(1000, room // 8)),
        "handler": _clip(failure.handler, 200),
    }
    room = max(0, room - sum(len(text.encode()) for text in texts.values()))
    texts["history"] = _clip("\n".join(failure.history), room // 2)
    texts["traceback"] = _clip(failure.traceback, room - len(texts["history"].encode()))
    # A reason is written even if there is none: it is what tells our letters from the broker's.
    headers: dict[str, str | int] = {
        FAILURE_PREFIX + name: text for name, text in texts.items() if text or name == "reason"
    }
    headers[f"{FAILURE_PREFIX}at"] = failure.at_ms
    headers[f"{FAILURE_PREFIX}attempt"] = failure.attempt
    return headers


def _clip(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes: head and tail, and between them how much is missing."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    note = f"\n... [{len(raw)} bytes, shortened] ...\n"
    rest = limit - len(note)
    if rest <= 0:
        return raw[: max(limit, 0)].decode("utf-8", "ignore")
    head = raw[: rest // 3].decode("utf-8", "ignore")
    return head + note + raw[len(raw) - (rest - rest // 3) :].decode("utf-8", "ignore")


def read_failure(properties: Properties, *, queue: str, topic: str, timestamp_ms: int) -> Failure:
    """The failure of a letter: from our headers, else from what the broker noted when it gave up itself.

    `queue` is the work queue whose letter it is (empty for the unrouted queue), `topic` the envelope's.
    """
    headers = properties.headers or {}
    reason = headers.get(f"{FAILURE_PREFIX}reason")
    if isinstance(reason, str):
        return Failure(
            reason=reason,
            queue=_text(headers, "queue"),
            topic=_text(headers, "topic") or topic,
            at_ms=_number(headers, "at", timestamp_ms),
            attempt=_number(headers, "attempt", 1),
            error_type=_text(headers, "error-type"),
            traceback=_text(headers, "traceback"),
            history=tuple(history.split("\n")) if (history := _text(headers, "history")) else (),
            broker=_text(headers, "broker"),
            handler=_text(headers, "handler"),
        )
    deaths = _deaths(headers)
    if not deaths:
        return Failure(
            reason=f"nobody receives topic {topic!r}: no queue is bound to it" if not queue else "no reason was kept",
            queue=queue,
            topic=topic,
            at_ms=timestamp_ms,
        )
    last = deaths[0]
    keys = last.get("routing-keys")
    origin = keys[0] if isinstance(keys, list) and keys and isinstance(keys[0], str) else ""
    at = last.get("time")
    return Failure(
        reason=_BROKER_REASONS.get(str(last.get("reason")), f"the broker dead-lettered it: {last.get('reason')}"),
        queue=queue,
        topic=topic if topic and not topic.startswith(queue) else origin or topic,
        at_ms=at * 1000 if type(at) is int else timestamp_ms,
        broker=broker_history(properties),
    )


_BROKER_REASONS: Final[Mapping[str, str]] = {
    "delivery_limit": "the broker gave up: too many deliveries ended without being settled (a crashing consumer?)",
    "rejected": "a consumer rejected it without saying why",
    "expired": "it expired in the queue before anybody took it",
    "maxlen": "the queue was full",
}


def problem_of(properties: Properties) -> str:
    """What of the envelope was unreadable when the letter was written."""
    return _text(properties.headers or {}, "problem")


def broker_history(properties: Properties) -> str:
    """What the broker noted about earlier deaths and returns, in one line; delays that ran out are not deaths."""
    headers = properties.headers or {}
    lines = []
    for death in _deaths(headers):
        queue, reason = str(death.get("queue", "")), str(death.get("reason", ""))
        if reason == "expired" and ".delay." in queue:
            continue
        at = death.get("time")
        when = _instant(at) if type(at) is int else "at an unknown time"
        lines.append(f"{reason} in {queue}, {death.get('count', 1)} times, last {when}")
    returned = headers.get("x-delivery-count")
    if type(returned) is int and returned > 0:
        lines.append(f"returned {returned} times before")
    return "; ".join(lines)


def _instant(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def _deaths(headers: Mapping[str, Any]) -> list[dict[str, Any]]:
    deaths = headers.get("x-death")
    return [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(FAILURE_PREFIX + name)
    return value if isinstance(value, str) else ""


def _number(headers: Mapping[str, Any], name: str, default: int) -> int:
    value = headers.get(FAILURE_PREFIX + name)
    return value if type(value) is int else default
