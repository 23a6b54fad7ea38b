"""Instants as people type them."""

from __future__ import annotations

import pytest
import typer

from rockbot.cli.letters_selection import instant_ms

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", NOW - 30_000),
        ("15m", NOW - 900_000),
        ("2h", NOW - 7_200_000),
        ("1.5h", NOW - 5_400_000),
        ("3d", NOW - 259_200_000),
        ("1w", NOW - 604_800_000),
        ("999999w", 0),
        ("2023-11-14", 1_699_920_000_000),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14 22:13:20.5", NOW + 500),
    ],
)
def test_an_instant_is_a_time_or_a_span_before_now(text: str, expected: int) -> None:
    assert instant_ms(text, NOW) == expected


def test_a_span_ahead_is_after_now() -> None:
    assert instant_ms("2h", NOW, ahead=True) == NOW + 7_200_000


@pytest.mark.parametrize("text", ["", "yesterday", "2", "h", "-2h", "2 h", "2023-13-01"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no instant"):
        instant_ms(text, NOW)
