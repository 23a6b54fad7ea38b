"""Reads a request out of an envelope, or says in one line why it is none."""

from __future__ import annotations

import json

from pydantic import ValidationError

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_scripts.contract import ScriptInvoke
from rockbot_scripts.errors import ScriptServiceError

__all__ = ["InvalidRequest", "read_request"]


class InvalidRequest(ScriptServiceError):
    """The message is no request that could be run and answered; the text is for whoever reads the dead letter."""


def read_request(envelope: MessageEnvelope, *, namespace: str) -> ScriptInvoke:
    """Return the request in `envelope`; a missing language is taken from the topic.

    Raises:
        InvalidRequest: the body is not JSON, lacks something, contradicts the topic, nobody could be answered, or
            the answer would go into a queue of ours.
    """
    runtime = envelope.topic.rsplit(".", 1)[-1]
    try:
        body = json.loads(envelope.body)
    except (ValueError, RecursionError) as failure:
        raise InvalidRequest(f"the body is not JSON: {failure}") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f'the body must be a JSON object like {{"code": "..."}}, not {type(body).__name__}')
    body.setdefault("language", runtime)
    try:
        invoke = ScriptInvoke.model_validate(body)
    except ValidationError as failure:
        wrong = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in failure.errors(include_url=False, include_input=False, include_context=False)
        )
        raise InvalidRequest(f"the body is no script request: {wrong}") from None
    if invoke.language != runtime:
        raise InvalidRequest(f"the body says language {invoke.language!r}, but its topic {envelope.topic!r} differs")
    if envelope.return_address is None and not envelope.reply_to:
        raise InvalidRequest("the request has neither a return address nor a reply-to, so nobody could read the result")
    if envelope.return_address is None and _is_ours(envelope.reply_to or "", f"{namespace}."):
        raise InvalidRequest(
            f"reply-to {envelope.reply_to!r} names a queue of this host; use a reply queue of your own"
        )
    return invoke


def _is_ours(queue: str, prefix: str) -> bool:
    return queue.startswith(prefix) and not queue.startswith((f"{prefix}reply.", f"{prefix}watch."))
