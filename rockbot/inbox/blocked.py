"""What an operator sees of inboxes: the keys that dead letters hold up, and how to let them go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import final

from rockbot.inbox.line import BlockedKey, LineId
from rockbot.inbox.shelf import Shelf
from rockbot.state.ports import StateStore
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["BlockedKeys"]


@final
class BlockedKeys:
    """The blocked keys in a store, whichever process works them. What is released goes on at the next scan of a host.

    Every method may raise `StateUnavailable`; then nothing was changed.
    """

    def __init__(self, store: StateStore) -> None:
        self._shelf = Shelf(store, owner="", lease=0)

    async def list(self, subscription: str) -> list[BlockedKey]:
        """The keys of a subscription that wait for a dead letter to be replayed or released."""
        return await self._shelf.blocked(subscription)

    async def release(
        self, subscription: str, key: str, *, tenant: str = DEFAULT_TENANT, message_id: str | None = None
    ) -> bool:
        """Let a key go on without the dead letter that holds it up; whether it was held up (by that one, if given).

        Replayed later, the letter goes to the end of its line like a new message.
        """
        return await self._shelf.unblock(LineId(subscription, tenant, key), message_id=message_id)

    async def discarded(self, subscription: str, message_id: str) -> BlockedKey | None:
        """The letter `message_id` will not come back: let the key that waits for it go on; which one that was."""
        for held in await self.list(subscription):
            if held.message_id == message_id and await self._let_go(held):
                return held
        return None

    async def gone(self, subscription: str, letters: Collection[tuple[str, str]]) -> Sequence[BlockedKey]:
        """None of these letters (tenant, message id) will come back under its id: let the keys that wait for them go on.

        One listing of the keys, however many letters there are. Returns the keys that were released.
        """
        held = [each for each in await self.list(subscription) if (each.tenant, each.message_id) in letters]
        return [each for each in held if await self._let_go(each)]

    async def _let_go(self, held: BlockedKey) -> bool:
        return await self.release(held.subscription, held.key, tenant=held.tenant, message_id=held.message_id)
