"""The clock that tests drive."""

from __future__ import annotations

import pytest

from rockbot_messaging.testing import FakeClock, SequenceIds


def test_a_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(start_ms=5000)
    assert (clock.now_ms(), clock.monotonic()) == (5000, 0)
    for _ in range(10):
        clock.advance(0.1)
    assert (clock.now_ms(), clock.monotonic()) == (6000, 1)


def test_a_fake_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        FakeClock().advance(-1)


def test_alarms_ring_in_their_order_each_at_its_instant() -> None:
    clock = FakeClock(start_ms=0)
    rung: list[tuple[str, int]] = []

    def ring(name: str) -> None:
        rung.append((name, clock.now_ms()))
        if name == "first":
            clock.call_at_ms(1500, lambda: ring("set by the first"))

    clock.call_at_ms(3000, lambda: ring("last"))
    clock.call_at_ms(1000, lambda: ring("first"))
    clock.call_at_ms(5000, lambda: ring("not yet"))
    clock.advance(3)
    assert rung == [("first", 1000), ("set by the first", 1500), ("last", 3000)]
    assert clock.now_ms() == 3000


def test_an_alarm_in_the_past_rings_at_the_next_advance() -> None:
    clock = FakeClock(start_ms=1000)
    rung: list[int] = []
    clock.call_at_ms(10, lambda: rung.append(clock.now_ms()))
    clock.advance(0)
    assert rung == [1000]


def test_sequences_of_ids_are_told_apart_by_their_series() -> None:
    one, other = SequenceIds(), SequenceIds(series=1)
    made = [one.new_id(), one.new_id(), other.new_id()]
    assert len(set(made)) == 3
    assert made[1].endswith("000000000002")
