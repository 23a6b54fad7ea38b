"""Ended spans on their way out: kept as bytes, sent together from a thread of their own.

Spans become bytes where they end, some microseconds each: a thread that encoded hundreds at a time would hold the
interpreter for as long, and every message that is handled meanwhile would wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

__all__ = ["SpanBatches"]

_log = logging.getLogger(__name__)

#: Spans that are sent at once, and before their time: some 800 kB of ours, and proxies let a megabyte through by default.
_ENOUGH: Final = 2048
#: Spans that wait while a collector is slow or away; what comes on top is dropped.
_MOST: Final = 16384


@final
class SpanBatches:
    """Sends what it was given every `every` seconds, and sooner when it is much.

    `send` sends spans and says whether they were taken; it may block and must not raise. Safe to use from any thread.
    """

    def __init__(self, send: Callable[[Sequence[bytes]], bool], *, every: float) -> None:
        self._send = send
        self._every = every
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._closed = False
        self._sending = threading.Lock()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: bytes) -> None:
        """Have it sent. Does not block."""
        waiting = self._waiting
        if self._closed or len(waiting) >= _MOST:
            self._dropped += 1
            return
        waiting.append(span)
        if len(waiting) >= _ENOUGH:
            self._due.set()

    def flush(self) -> None:
        """Send what is there; blocks."""
        with self._sending:
            while self._waiting:
                spans = [self._waiting.popleft() for _ in range(min(len(self._waiting), _ENOUGH))]
                if self._send(spans):
                    continue
                self._dropped += len(spans)
                if self._closed:  # nobody will try again
                    self._dropped += len(self._waiting)
                    self._waiting.clear()
                break
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                _log.warning("%d spans were dropped: whoever collects them is away or too slow", dropped)

    def close(self) -> None:
        """Send what is left and take nothing more; blocks. Idempotent."""
        self._closed = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._due.wait(self._every)
            self._due.clear()
            self.flush()
        self.flush()
