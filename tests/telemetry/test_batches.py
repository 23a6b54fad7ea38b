"""Batches of spans: sent by time or by number, never in the way of who makes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import pytest

from rockbot.telemetry import batches
from rockbot.telemetry.batches import SpanBatches


class Collector:
    """Takes what is sent while `open` is set."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.open = threading.Event()
        self.open.set()
        self.came = threading.Semaphore(0)
        self.takes = True

    def __call__(self, spans: Sequence[bytes]) -> bool:
        self.open.wait(60)
        self.sent.append(list(spans))
        self.came.release()
        return self.takes


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.open.set()


def test_spans_are_sent_in_their_order_when_their_time_has_come(collector: Collector) -> None:
    spans = SpanBatches(collector, every=0.01)
    for number in range(3):
        spans.put(b"%d" % number)
    while sum(map(len, collector.sent)) < 3:
        assert collector.came.acquire(timeout=60)
    spans.close()
    assert [span for sent in collector.sent for span in sent] == [b"0", b"1", b"2"]


def test_many_are_sent_before_their_time_and_not_too_many_at_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_ENOUGH", 10)
    spans = SpanBatches(collector, every=3600)
    for number in range(25):
        spans.put(b"%d" % number)
    assert collector.came.acquire(timeout=60)
    spans.close()
    assert sum(map(len, collector.sent)) == 25
    assert max(map(len, collector.sent)) <= 10


def test_closing_sends_what_is_left_and_takes_nothing_more(collector: Collector) -> None:
    spans = SpanBatches(collector, every=3600)
    spans.put(b"last")
    spans.close()
    spans.put(b"late")
    spans.close()
    assert collector.sent == [[b"last"]]


def test_a_slow_collector_holds_nobody_up_and_what_is_too_much_is_dropped_and_said(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "_ENOUGH", 10)
    monkeypatch.setattr(batches, "_MOST", 100)
    collector.open.clear()
    spans = SpanBatches(collector, every=3600)
    for number in range(1000):
        spans.put(b"%d" % number)
    collector.open.set()
    with caplog.at_level(logging.WARNING):
        spans.close()
    sent = sum(map(len, collector.sent))
    assert 100 <= sent < 1000
    assert f"{1000 - sent} spans were dropped" in caplog.text


def test_what_a_collector_refuses_is_dropped_and_the_next_batch_is_tried(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    spans = SpanBatches(collector, every=3600)
    collector.takes = False
    spans.put(b"refused")
    with caplog.at_level(logging.WARNING):
        spans.flush()
    assert "1 spans were dropped" in caplog.text
    collector.takes = True
    spans.put(b"taken")
    spans.close()
    assert collector.sent == [[b"refused"], [b"taken"]]


def test_a_collector_that_is_away_at_the_end_is_tried_once_and_all_that_is_lost_is_said(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "_ENOUGH", 10)
    collector.takes = False
    collector.open.clear()
    spans = SpanBatches(collector, every=3600)
    for number in range(25):
        spans.put(b"%d" % number)
    closing = threading.Thread(target=spans.close)
    with caplog.at_level(logging.WARNING):
        closing.start()
        while not spans._closed:
            threading.Event().wait(0.001)
        collector.open.set()
        closing.join(60)
    assert len(collector.sent) == 1
    assert "25 spans were dropped" in caplog.text
