"""The conformance suite: what it means to be a provider of messaging.

Subclass `BusContract` in a test module and give it a fixture named ``harness`` (see the package's docstring). All cases
speak only through the ports of `rockbot_messaging.ports` and the `Harness`; a provider that passes behaves like all others.
"""

from __future__ import annotations

import pytest

_CASES = ("carriage", "consuming", "letter_keeping", "letter_walks", "letters", "routing", "settling")
pytest.register_assert_rewrite(*(f"rockbot_messaging.testing.{name}" for name in _CASES))

from rockbot_messaging.testing.carriage import CarriageCases  # noqa: E402
from rockbot_messaging.testing.consuming import ConsumingCases  # noqa: E402
from rockbot_messaging.testing.letter_keeping import LetterKeepingCases  # noqa: E402
from rockbot_messaging.testing.letter_walks import LetterWalkCases  # noqa: E402
from rockbot_messaging.testing.letters import LetterCases  # noqa: E402
from rockbot_messaging.testing.routing import RoutingCases  # noqa: E402
from rockbot_messaging.testing.settling import SettlingCases  # noqa: E402

__all__ = ["BusContract"]


class BusContract(
    RoutingCases, CarriageCases, ConsumingCases, SettlingCases, LetterCases, LetterKeepingCases, LetterWalkCases
):
    """Every case. Real brokers spend about ten seconds in it waiting for delays of one second."""
