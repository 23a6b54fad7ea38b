"""Artifacts in a state store: one value for each under its tenant and digest, kept for ever unless it is told otherwise."""

from __future__ import annotations

import asyncio
from typing import final

from rockbot.state.keys import artifact_key
from rockbot.state.ports import StateError, StateStore
from rockbot_messaging.artifacts import ArtifactMissing, ArtifactsUnavailable, Reference
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["OwnStateArtifacts", "StateArtifacts"]


@final
class StateArtifacts:
    """An `ArtifactStore` in `store`, which whoever made it opens and closes.

    `keep_days` is how long after it was last stored an artifact is kept; 0 keeps it for ever.
    """

    def __init__(self, store: StateStore, *, keep_days: float = 0) -> None:
        self._store = store
        self._ttl = keep_days * 86_400 if keep_days else None

    async def put(self, body: bytes, *, tenant: str = DEFAULT_TENANT) -> str:
        """See `ArtifactStore.put`."""
        reference = await Reference.made(body)
        try:
            # Also when it lies there already: its time begins anew, as the last who stored it wants it.
            await self._store.put(artifact_key(tenant, reference.digest), body, ttl=self._ttl)
        except StateError as exc:
            raise ArtifactsUnavailable(f"an artifact of {len(body)} bytes cannot be stored: {exc}") from exc
        return str(reference)

    async def get(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> bytes:
        """See `ArtifactStore.get`."""
        wanted = Reference.parse(reference)
        try:
            entry = await self._store.get(artifact_key(tenant, wanted.digest))
        except StateError as exc:
            raise ArtifactsUnavailable(f"the artifact {wanted} cannot be read: {exc}") from exc
        if entry is None:
            raise ArtifactMissing(
                f"no artifact {wanted} lies in this process's state store: do all processes of the broker share it?"
            )
        if not await wanted.fits(entry.value):
            raise ArtifactMissing(f"the artifact {wanted} in the state store is damaged: its bytes are others")
        return entry.value


@final
class OwnStateArtifacts:
    """As `StateArtifacts`, for a process that has no open store: opens its own when first needed. `close` closes it."""

    def __init__(self, store: StateStore, *, keep_days: float = 0) -> None:
        self._store = store
        self._inner = StateArtifacts(store, keep_days=keep_days)
        self._opening = asyncio.Lock()
        self._is_open = False

    async def put(self, body: bytes, *, tenant: str = DEFAULT_TENANT) -> str:
        await self._open()
        return await self._inner.put(body, tenant=tenant)

    async def get(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> bytes:
        await self._open()
        return await self._inner.get(reference, tenant=tenant)

    async def close(self) -> None:
        """Close the store if it was opened; idempotent."""
        async with self._opening:
            if self._is_open:
                self._is_open = False
                await self._store.close()

    async def _open(self) -> None:
        async with self._opening:
            if self._is_open:
                return
            try:
                await self._store.open()
            except StateError as exc:
                raise ArtifactsUnavailable(f"the state store with the artifacts cannot be opened: {exc}") from exc
            self._is_open = True
