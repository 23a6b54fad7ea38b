"""Signatures: who holds a key can tell a message of ours from one that somebody else wrote, or changed on its way.

What is signed are the fields that never change between publishing and handling, however often a message waits, dies and is
sent on; so a signature stays valid through retries and replays. It is over the digest of the body, which is the digest in a
claim; so a body that lies aside is signed by its reference, and a signature can be checked before anything is fetched.

Counters, due instant, deadline (a letter that is sent on gets a later one), history, trace, the broker's marks and the user
are not signed. Broker users are for trust (`rockbot_messaging.trust`), keys for integrity.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, Literal, final

from rockbot_messaging.artifacts import Reference
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import MessagingError
from rockbot_messaging.layers import Layer, LayeredBus, Refusal
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.subscriptions import Subscription
from rockbot_messaging.trust import Protected
from rockbot_messaging.verdicts import DeadLetter

__all__ = [
    "SHORTEST_SECRET",
    "SIGNED_FIELDS",
    "BadSignature",
    "Signer",
    "Signing",
    "canonical",
    "mended",
    "signing_bus",
]

#: Characters that a secret has at least.
SHORTEST_SECRET: Final = 32
#: Fields of an envelope that are signed as they are; with them body digest, timestamp (seconds), return address and free
#: headers.
SIGNED_FIELDS: Final = (
    "topic", "message_id", "type", "source", "content_type", "tenant", "schema_version", "correlation_id", "reply_to",
    "destination", "causation_id", "conversation_id", "root_task_id",
)  # fmt: skip

_VALUES: Final = attrgetter(*SIGNED_FIELDS)
_VERSION: Final = "v1"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_RESERVED: Final = ("x-", "rockbot-")
_NOT_FREE: Final = frozenset({"traceparent", "tracestate", "CC", "BCC"})

Cause = Literal["missing", "malformed", "unknown_key", "wrong"]


class BadSignature(MessagingError):
    """A message is not signed, or not by a key that is known, or not as it is now. `cause` says which in one word."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause: Cause = cause


def canonical(envelope: MessageEnvelope) -> bytes:
    """The bytes that version 1 signs: a line for each field that is set, ``name=<bytes of the value>:<value>``.

    `docs/publishing.md` has the order of the lines for other languages. What is empty is as if it were not there, because
    the wire does not tell the two apart; a timestamp counts in whole seconds, because the wire has no more.
    """
    lines = ["rockbot-signature-v1\n"]
    for name, value in zip(SIGNED_FIELDS, _VALUES(envelope), strict=True):
        if value:
            lines.append(_line(name, str(value)))
    if seconds := envelope.timestamp_ms // 1000:
        lines.append(_line("timestamp", str(seconds)))
    address = envelope.return_address
    if address is not None and address.topic:
        lines.append(_line("return_topic", address.topic))
        if address.token:
            lines.append(_line("return_token", address.token))
    lines.append(_line("body", _body_digest(envelope)))
    lines += [
        _line(f"header:{_size(name)}:{name}", _typed(envelope.headers[name]))
        for name in sorted(filter(_is_free, envelope.headers))
    ]
    return "".join(lines).encode("utf-8", "surrogatepass")


def _line(name: str, value: str) -> str:
    return f"{name}={_size(value)}:{value}\n"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def mended(envelope: MessageEnvelope, **changes: Any) -> MessageEnvelope:
    """A copy with some fields changed that no longer says to be what was signed: publishing or sending it on signs it anew."""
    if "body" in changes:
        changes.setdefault("claim", None)
    return envelope.replace(signature=None, **changes)


def signing_bus(
    bus: MessageBus,
    signer: Signer,
    *,
    require: Iterable[str] = (),
    clock: Clock | None = None,
    measures: Measures = NO_MEASURES,
) -> LayeredBus:
    """`bus`, with what it publishes signed, and unsigned messages refused on topics that match `require`."""
    return LayeredBus(bus, (Signing(signer, require=require, measures=measures),), clock=clock)


@final
class Signer:
    """Makes and checks signatures (HMAC-SHA256).

    Args:
        keys: secrets by key id; all of them are accepted, so that old keys verify while new ones sign.
        active: the key that signs; empty for one that only checks.

    Raises:
        ValueError: a key id has other characters than ``A-Z a-z 0-9 _ . -`` or is longer than 64, a secret is short, or
            `active` is not among the keys.
    """

    def __init__(self, keys: Mapping[str, str], active: str = "") -> None:
        for key_id, secret in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise ValueError(f"signing key id {key_id!r} is not 1 to 64 of A-Z a-z 0-9 _ . -")
            if len(secret) < SHORTEST_SECRET:
                raise ValueError(f"the secret of signing key {key_id!r} has less than {SHORTEST_SECRET} characters")
        if active and active not in keys:
            raise ValueError(f"signing key {active!r} has no secret")
        self._keys = {key_id: secret.encode() for key_id, secret in keys.items()}
        self.active = active

    def sign(self, envelope: MessageEnvelope) -> MessageEnvelope:
        """`envelope` with the active key's signature instead of the one it has; without an active key as it is."""
        if not self.active:
            return envelope
        mac = hmac.digest(self._keys[self.active], canonical(envelope), hashlib.sha256).hex()
        return envelope.replace(signature=f"{_VERSION};{self.active};{mac}")

    def verify(self, envelope: MessageEnvelope) -> str:
        """The id of the key that signed this message as it is.

        Raises:
            BadSignature: no key that is known did.
        """
        signature = envelope.signature
        if not signature:
            raise BadSignature("it is not signed", "missing")
        parts = signature.split(";")
        if len(parts) != 3 or parts[0] != _VERSION:
            raise BadSignature(f"its signature {signature[:40]!r} does not read {_VERSION};<key id>;<hex>", "malformed")
        secret = self._keys.get(parts[1])
        if secret is None:
            raise BadSignature(f"it is signed by the key {parts[1][:64]!r}, which is not known here", "unknown_key")
        mac = hmac.digest(secret, canonical(envelope), hashlib.sha256).hex()
        if not hmac.compare_digest(mac.encode(), parts[2].encode("utf-8", "replace")):
            raise BadSignature(
                f"its signature by the key {parts[1]!r} is wrong: somebody changed it, or has another secret", "wrong"
            )
        return parts[1]

    def __repr__(self) -> str:
        return f"Signer(keys={sorted(self._keys)}, active={self.active!r})"


@final
class Signing(Layer):
    """The layer: signs what is not signed yet, refuses what ought to be signed and is not.

    It belongs inside the claim check: a body that lies aside is then signed by its digest without being hashed again, and a
    forged message is refused before anything is fetched for it. Refusing here, before a message is decoded, journaled or
    put in any order, leaves a forger nothing to hold up; and nobody is told, because the address to tell is the forger's.

    A letter that is sent on unsigned is signed: whoever has the key and sends it on stands for it.

    `require` are the topics; `is_inner` and `inner` are for types of running work, see `rockbot_messaging.trust.Protected`.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        require: Iterable[str] = (),
        is_inner: Callable[[str], bool] | None = None,
        inner: Iterable[str] = (),
        measures: Measures = NO_MEASURES,
    ) -> None:
        self._signer = signer
        self._required = Protected(require, is_inner=is_inner, inner=inner)
        self._measures = measures

    async def outgoing(self, envelope: MessageEnvelope, door: Door | None) -> MessageEnvelope:  # noqa: ARG002
        return self._signed(envelope)

    async def incoming(self, envelope: MessageEnvelope, subscription: Subscription) -> MessageEnvelope | Refusal:
        if not self._required.covers(envelope, subscription):
            return envelope
        try:
            self._signer.verify(envelope)
        except BadSignature as exc:
            self._measures.count(Names.UNTRUSTED, cause=f"signature_{exc.cause}")
            reason = f"a message of topic {envelope.topic!r} must be signed, and {exc}"
            return Refusal(DeadLetter(reason=reason, error_type=BadSignature.__name__))
        return envelope

    def changes_replays(self, body: bytes | None) -> bool:  # noqa: ARG002
        return bool(self._signer.active)

    async def sends_on(self, envelope: MessageEnvelope) -> MessageEnvelope:
        return self._signed(envelope)

    def _signed(self, envelope: MessageEnvelope) -> MessageEnvelope:
        return envelope if envelope.signature is not None else self._signer.sign(envelope)


def _body_digest(envelope: MessageEnvelope) -> str:
    if envelope.claim is not None and not envelope.body:
        try:
            return Reference.parse(envelope.claim).digest
        except ValueError:
            return envelope.claim
    return hashlib.sha256(envelope.body).hexdigest()


def _is_free(name: str) -> bool:
    return not name.startswith(_RESERVED) and name not in _NOT_FREE


def _typed(value: HeaderValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"bool:{str(value).lower()}"
    if isinstance(value, int):
        return f"int:{value}"
    if isinstance(value, float):
        return f"float:{struct.pack('>d', value).hex()}"
    return f"text:{value}"
