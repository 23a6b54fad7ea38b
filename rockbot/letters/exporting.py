"""Letters as lines of JSON, and back: everything that a dead-letter queue keeps of a message."""

from __future__ import annotations

import base64
import binascii

from rockbot.letters.models import ExportedLetter
from rockbot.operators.models import body_text
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.letters import Failure, Letter
from rockbot_messaging.packing import pack, unpack

__all__ = ["exported", "imported"]


def exported(letter: Letter, queue: str) -> ExportedLetter:
    """A letter of `queue` (its short name) as it leaves."""
    envelope, failure = letter.envelope, letter.failure
    body, encoding = body_text(envelope.body)
    return ExportedLetter(
        queue=queue,
        envelope=base64.b64encode(pack(envelope)).decode(),
        reason=failure.reason,
        origin=failure.queue,
        topic=failure.topic,
        at_ms=failure.at_ms,
        attempt=failure.attempt,
        error_type=failure.error_type,
        traceback=failure.traceback,
        history=failure.history,
        broker=failure.broker,
        handler=failure.handler,
        problem=letter.problem,
        id=letter.id,
        body=body,
        body_encoding=encoding,
    )


def imported(line: ExportedLetter) -> tuple[MessageEnvelope, Failure]:
    """The message and the failure of an exported letter. No broker vouches for its user any more.

    Raises:
        Undecodable: its envelope is none.
    """
    try:
        envelope = unpack(base64.b64decode(line.envelope, validate=True))
    except binascii.Error as exc:
        raise Undecodable(f"the envelope is not base64: {exc}") from None
    failure = Failure(
        reason=line.reason,
        queue=line.origin,
        topic=line.topic,
        at_ms=line.at_ms,
        attempt=line.attempt,
        error_type=line.error_type,
        traceback=line.traceback,
        history=line.history,
        broker=line.broker,
        handler=line.handler,
    )
    return envelope.replace(user_id=None), failure
