"""The dead letters of a town, as an operator works them."""

from __future__ import annotations

from core.town import Town

from rockbot.events import HOST_EVENTS, EventRegistry
from rockbot.letters.service import LetterService
from rockbot.settings_delivery import LetterSettings
from rockbot_messaging.measures import Counters
from rockbot_messaging.testing import SequenceIds


def letters_of(town: Town) -> LetterService:
    """A service over the town's broker and state."""
    return LetterService(
        letters=town.client.dead_letters,
        publisher=town.client.publisher,
        store=town.store,
        clock=town.clock,
        ids=SequenceIds(90),
        owner="operator",
        namespace="rockbot",
        source="tests",
        registry=EventRegistry(HOST_EVENTS),
        measures=Counters(),
        settings=LetterSettings(),
    )
