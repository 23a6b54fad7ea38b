"""The notice that a command was dead-lettered, for whoever waits for its answer.

A worker that gives up on a command tells the return address so before the letter is written; the waiting turn then stands
still instead of running into its deadline.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge, InvalidTopic, Unroutable
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.settlement import Bury, decide
from rockbot_messaging.verdicts import Retry, Verdict

__all__ = ["STALLED_TYPE", "stall_notice", "tell_who_waits"]

logger = logging.getLogger(__name__)

#: Type name of the notice on the wire.
STALLED_TYPE: Final = "rockbot.agent.step-stalled"


async def tell_who_waits(
    envelope: MessageEnvelope,
    verdict: Verdict,
    policy: RetryPolicy,
    *,
    publish: Callable[[MessageEnvelope], Awaitable[None]],
    subscription: str,
    source: str,
    now_ms: int,
) -> Verdict:
    """Publish the notice if one is due, and return the verdict to carry out.

    That is `verdict`, or, when the notice could not be stored, a hand-back: the letter is not written before its turn was
    told. An address that nobody has is told nothing.
    """
    notice = stall_notice(envelope, verdict, policy, subscription=subscription, source=source, now_ms=now_ms)
    if notice is None:
        return verdict
    try:
        await publish(notice)
    except (Unroutable, InvalidTopic, BodyTooLarge, HeadersTooLarge) as exc:
        logger.warning("nobody could be told that a step failed", extra=_problem(envelope, exc))
    except Exception as exc:  # whatever it is: the letter is not written before its turn was told
        logger.warning(
            "a turn could not be told that its step failed; the step is handed back", extra=_problem(envelope, exc)
        )
        return Retry(reason=f"its turn could not be told: {_reason(notice)}", counted=False)
    return verdict


def _reason(notice: MessageEnvelope) -> str:
    """Why the command of a notice died."""
    return str(json.loads(notice.body)["reason"])


def _problem(envelope: MessageEnvelope, exc: Exception) -> dict[str, str]:
    return {"message_id": envelope.message_id, "error": f"{type(exc).__name__}: {exc}"}


def stall_notice(
    envelope: MessageEnvelope, verdict: Verdict, policy: RetryPolicy, *, subscription: str, source: str, now_ms: int
) -> MessageEnvelope | None:
    """What to publish before `verdict` on a command is carried out; None when it is not the end, or nobody waits.

    A notice that dies itself has no notice: it would tell its own sender, for ever.
    """
    address = envelope.return_address
    if address is None or envelope.type == STALLED_TYPE:
        return None
    outcome = decide(envelope, verdict, policy, queue=subscription, now_ms=now_ms)
    if not isinstance(outcome, Bury):
        return None
    body = {"message_id": envelope.message_id, "queue": subscription, "reason": outcome.failure.reason}
    return envelope.caused(
        f"stalled@{now_ms}",  # a letter that is sent on and dies again stalls its turn again
        topic=address.topic,
        type=STALLED_TYPE,
        body=json.dumps(body).encode(),
        source=source,
        timestamp_ms=now_ms,
        return_address=address,
        deadline_ms=None,
    )
