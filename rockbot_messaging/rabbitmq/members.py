"""Which member of a cluster a connection turns to: one by chance at first, after a failure the others, the failed one last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, final

from rockbot_messaging.broker_urls import Address
from rockbot_messaging.rabbitmq.pausing import Chance

__all__ = ["Members"]

#: Seconds that one of several members gets to answer, before the next is asked; doubled after a round without success,
#: so that a cluster that is only slow is reached, too.
_PATIENCE: Final = 4.0


@final
class Members:
    """The members that one connection may use.

    Args:
        addresses: at least one.
        chance: spreads the connections of many processes over the members.
    """

    def __init__(self, addresses: Sequence[Address], chance: Chance) -> None:
        self._addresses = tuple(addresses)
        self._chance = chance
        self._patience = _PATIENCE
        #: The member in use, or the last one that was.
        self.used: Address | None = None

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self._addresses) > 1

    def round(self) -> Iterator[tuple[Address, float | None]]:
        """Each member once, and the seconds it gets (None: as many as there are); the one used last comes last."""
        rest = [address for address in self._addresses if address != self.used]
        patience = self._patience if self.several else None
        while rest:
            pick = int(self._chance() * len(rest)) if len(rest) > 1 else 0
            yield rest.pop(min(pick, len(rest) - 1)), patience
        if self.used in self._addresses:
            yield self.used, patience
        self._patience *= 2

    def found(self, address: Address) -> None:
        """A connection to it stands."""
        self.used = address
        self._patience = _PATIENCE
