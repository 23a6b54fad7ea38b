"""Where large bodies lie, so that queues carry references: a port, and how a reference is written.

An artifact is known by what is in it. Storing the same bytes twice is storing them once, a reference can be checked against
what it leads to, and nobody can change what a message that was sent yesterday says. Artifacts outlive every message that
points at them: a dead letter may be sent on after months. So nothing here deletes one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Protocol, final

from rockbot_messaging.errors import MessagingError
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = [
    "ArtifactMissing",
    "ArtifactStore",
    "ArtifactsUnavailable",
    "MemoryArtifacts",
    "Reference",
]

_TEXT: Final = re.compile(r"sha256:([0-9a-f]{64});([0-9]{1,15})", re.ASCII)
#: Bytes above which hashing takes long enough to keep others waiting.
_SLOW: Final = 1024 * 1024


class ArtifactMissing(MessagingError, LookupError):
    """No artifact of this digest is stored here, or what is stored is not what the digest says."""


class ArtifactsUnavailable(MessagingError):
    """The place where artifacts lie cannot be read or written now; the text says what to check."""


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """The digest (SHA-256, lower-case hexadecimal) and the length in bytes of an artifact."""

    digest: str
    size: int

    @classmethod
    def of(cls, body: bytes) -> Reference:
        """The reference of these bytes."""
        return cls(hashlib.sha256(body).hexdigest(), len(body))

    @classmethod
    async def made(cls, body: bytes) -> Reference:
        """As `of`; large bodies are hashed in a thread."""
        return await asyncio.to_thread(cls.of, body) if len(body) > _SLOW else cls.of(body)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read what `str` wrote.

        Raises:
            ValueError: it is no reference.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:100]!r} is no reference to an artifact: it reads sha256:<64 hex digits>;<bytes>")
        return cls(match[1], int(match[2]))

    def describes(self, body: bytes) -> bool:
        """Whether these are the bytes that it stands for."""
        return len(body) == self.size and Reference.of(body) == self

    async def fits(self, body: bytes) -> bool:
        """As `describes`; large bodies are hashed in a thread."""
        return len(body) == self.size and await Reference.made(body) == self

    def __str__(self) -> str:
        return f"sha256:{self.digest};{self.size}"


class ArtifactStore(Protocol):
    """Keeps bytes under their digest, apart for each tenant, as durably as its provider is; never deletes any."""

    async def put(self, body: bytes, *, tenant: str = DEFAULT_TENANT) -> str:
        """Store `body` and return its reference (``sha256:<hex>;<bytes>``); it is durable then. Storing it again is harmless.

        Raises:
            ArtifactsUnavailable: it was not stored.
        """
        ...

    async def get(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> bytes:
        """What was stored under this reference.

        Raises:
            ArtifactMissing: nothing was, or what lies there is damaged; the text names the digest and where was looked.
            ArtifactsUnavailable: it cannot be said now.
            ValueError: `reference` is none.
        """
        ...


@final
class MemoryArtifacts:
    """An `ArtifactStore` that ends with its process: for tests, and for buses that do the same."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], bytes] = {}

    async def put(self, body: bytes, *, tenant: str = DEFAULT_TENANT) -> str:
        reference = Reference.of(body)
        self.stored[tenant, reference.digest] = body
        return str(reference)

    async def get(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> bytes:
        wanted = Reference.parse(reference)
        body = self.stored.get((tenant, wanted.digest))
        if body is None:
            raise ArtifactMissing(f"no artifact {wanted} is in this process's memory")
        if not wanted.describes(body):
            raise ArtifactMissing(f"the artifact {wanted} in this process's memory is damaged")
        return body
