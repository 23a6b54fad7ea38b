"""Ids that come out the same every time.

A step that runs again after a crash must emit the messages it emitted before, under the same ids, so that whoever
received the first copy recognises the second. Ids are therefore derived (RFC 9562, version 5) from the id of the
message that caused them and a name, never drawn.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

__all__ = ["DEFAULT_TENANT", "derive_id", "foreign_id"]

#: The tenant of every message that names none.
DEFAULT_TENANT: Final = "default"

_NAMESPACE: Final = uuid.UUID("6a1c7d2e-6f0b-5c1d-9b55-0d7f3f7f5a11")
_BEGUN: Final = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)
_VARIANT: Final = "89ab"


def derive_id(parent: str, name: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """The id of what `parent` causes under `name`; equal arguments give equal ids, equal parents of two tenants do not."""
    made = _uuid5(f"{parent}\x1f{name}")
    return made if tenant == DEFAULT_TENANT else _uuid5(f"tenant\x1f{made}\x1f{tenant}")


def _uuid5(name: str) -> str:
    """As `str(uuid.uuid5(_NAMESPACE, name))` in a third of the time: several are made for every message."""
    digest = _BEGUN.copy()
    digest.update(name.encode())
    made = digest.hexdigest()
    variant = _VARIANT[int(made[16], 16) & 3]
    return f"{made[:8]}-{made[8:12]}-5{made[13:16]}-{variant}{made[17:20]}-{made[20:32]}"


def foreign_id(
    *,
    publisher: str | None,
    topic: str,
    message_id: str | None,
    reply_to: str | None,
    correlation_id: str | None,
    body: bytes,
    tenant: str = DEFAULT_TENANT,
) -> str | None:
    """The identity of a message that another system published, or None when it carries nothing to tell it by.

    With a message id: publisher (user id, else app id), topic and that id. Without one: topic, reply-to, correlation
    id and the body's digest, so that a client that sends its request again is recognised. Without any of these the
    caller draws a fresh id, and a crash before the first commit may handle the message twice. The ids of two tenants
    never meet.
    """
    if message_id:
        return derive_id(f"foreign\x1f{publisher or ''}\x1f{topic}", message_id, tenant=tenant)
    if reply_to or correlation_id:
        digest = hashlib.sha256(body).hexdigest()
        return derive_id(f"anonymous\x1f{topic}\x1f{reply_to or ''}\x1f{correlation_id or ''}", digest, tenant=tenant)
    return None
