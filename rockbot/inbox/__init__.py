"""Messages of one key one after another, with the rest of the world in parallel.

What an ordered subscription receives is appended to an inbox per key in the state store and acknowledged; whoever holds the
lease of a key works its head. The broker's queue is only the way in.
"""

from __future__ import annotations

from rockbot.inbox.blocked import BlockedKeys
from rockbot.inbox.line import BlockedKey
from rockbot.inbox.ordered import OrderedInboxes

__all__ = ["BlockedKey", "BlockedKeys", "OrderedInboxes"]
