"""Messages to be sent as rows of a store, and back."""

from __future__ import annotations

from rockbot.context import Emission
from rockbot.state.ports import OutboxRow
from rockbot_messaging.packing import pack, unpack
from rockbot_messaging.ports import Door

__all__ = ["emission_of", "row_of"]


def emission_of(row: OutboxRow) -> Emission:
    """A row as a message to send.

    Raises:
        Undecodable: it holds no message.
    """
    return Emission(unpack(row.message), Door(row.door), row.address)


def row_of(emission: Emission, *, cause: str, awaits_answer: bool = False) -> OutboxRow:
    """A message that the message `cause` sends, as a row."""
    return OutboxRow(
        id=emission.envelope.message_id,
        cause=cause,
        message=pack(emission.envelope),
        door=emission.door.value,
        address=emission.address,
        awaits_answer=awaits_answer,
    )
