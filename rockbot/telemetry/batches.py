"""Ended spans on their way out: kept as bytes, sent together from a thread of their own.

Spans become bytes where they end, some microseconds each: a thread that encoded hundreds at a time would hold the
interpreter for as long, and every message that is handled meanwhile would wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, final

__all__ = ["SpanBatches"]

_log = logging.getLogger(__name__)

#: Bytes of spans that are sent at once, and before their time; a collector takes 20 MiB by default.
_ENOUGH: Final = 512 * 1024
#: Bytes that wait while a collector is slow or away; what comes on top is dropped.
_MOST: Final = 8 * 1024 * 1024


@final
class SpanBatches:
    """Sends what it was given every `every` seconds, and sooner when it is much.

    `send` sends spans and says whether they were taken; it may block and must not raise. Safe to use from any thread.
    """

    def __init__(self, send: Callable[[Sequence[bytes]], bool], *, every: float) -> None:
        self._send = send
        self._every = every
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._closed = False
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: bytes) -> None:
        """Have it sent. Does not block."""
        with self._lock:
            if self._closed or self._size + len(span) > _MOST:
                self._dropped += 1
                return
            self._waiting.append(span)
            self._size += len(span)
            enough = self._size >= _ENOUGH
        if enough:
            self._due.set()

    def flush(self) -> None:
        """Send what is there; blocks."""
        with self._sending:
            with self._lock:
                waiting, self._waiting, self._size = self._waiting, [], 0
                dropped, self._dropped = self._dropped, 0
            if waiting and not self._send(waiting):
                dropped += len(waiting)
            if dropped:
                _log.warning("%d spans were dropped: whoever collects them is away or too slow", dropped)

    def close(self) -> None:
        """Send what is left and take nothing more; blocks. Idempotent."""
        with self._lock:
            self._closed = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._due.wait(self._every)
            self._due.clear()
            self.flush()
        self.flush()
