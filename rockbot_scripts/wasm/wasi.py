"""The system interface of the JavaScript guest: our own functions for WASI preview 1, and nothing behind them.

There are three streams (input, output, error), a result channel, clocks and sleeping. Every call that names a path,
opens something or reaches further answers "not supported". Sleeping never outlasts the deadline of the run.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from typing import Any, Final, final

import wasmtime

from rockbot_scripts.wasm.runs import STDERR, STDOUT, OutOfTime, Run

MODULE: Final = "wasi_snapshot_preview1"
RESULT_FD: Final = 100
"""The guest's prelude writes one JSON object here when the script has ended."""
_QUESTION_FD: Final = 101
"""Reading here answers one question of the prelude: was there exactly one poll since the last question?"""

_OK, _BAD_FD, _FAULT, _INVALID, _UNSUPPORTED = 0, 8, 21, 28, 52
_CHARACTER_DEVICE, _REGULAR_FILE = 2, 4
_MAX_VECTORS = 1024
_CLOCK, _ABSOLUTE = 0, 1
_FAR_SECONDS = 9.5
"""No sleep of a script takes this long at once (see the prelude); only the engine's look at a far timer does."""
_LAST_POLLS = 1
"""Polls granted after the report, in which the engine tells of promises that were rejected and never handled."""
_UNHANDLED = b"Possibly unhandled promise rejection: "
_ALL_RIGHTS = 2**64 - 1


class GuestExit(Exception):
    """The guest ended itself with an exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class GuestIdle(Exception):
    """The guest has reported, and nothing is left for it to do."""


@final
class Wasi:
    """The host functions of one worker; `run` and `report` belong to the run under way."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.store: wasmtime.Store
        self.memory: wasmtime.Memory
        self.stdin = b""
        self.position = 0
        self.report = bytearray()
        self.polls = 0
        self.told = 0
        self._known: dict[str, Callable[..., int]] = {
            "fd_write": self._write,
            "fd_read": self._read,
            "fd_fdstat_get": self._stat,
            "fd_prestat_get": lambda *_: _BAD_FD,
            "clock_time_get": self._clock,
            "environ_sizes_get": self._no_environment,
            "environ_get": lambda *_: _OK,
            "poll_oneoff": self._poll,
        }

    def begin(self, run: Run, store: wasmtime.Store, memory: wasmtime.Memory) -> None:
        """Take up a run: its input, the memory of its instance, an empty result."""
        self.store, self.memory = store, memory
        self.run, self.stdin, self.position = run, run.order.input.encode("utf-8", "replace"), 0
        self.report = bytearray()
        self.polls = 0
        self.told = 0

    def function(self, name: str) -> Callable[..., Any]:
        """Return the host function for import `name`; what we do not offer answers "not supported"."""
        if name == "proc_exit":
            return self._exit
        known = self._known.get(name)
        if known is None:
            return lambda *_args: _UNSUPPORTED

        def guarded(*args: int) -> int:
            try:
                return known(*[value & 0xFFFFFFFF for value in args])
            except (IndexError, struct.error):
                return _FAULT

        return guarded

    def _exit(self, code: int) -> None:
        raise GuestExit(code & 0xFF)

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        raw = self._load(at, 8 * count)
        return [struct.unpack_from("<II", raw, 8 * index) for index in range(count)]

    def _write(self, fd: int, vectors: int, count: int, written: int) -> int:
        if fd not in (STDOUT, STDERR, RESULT_FD):
            return _BAD_FD
        if count > _MAX_VECTORS or self.run is None:
            return _INVALID
        total = 0
        for address, size in self._vectors(vectors, count):
            if fd == RESULT_FD:
                room = max(0, 8 * self.run.order.output + 4096 - len(self.report))
                self.told = len(self.run.capture.streams[STDERR])
                self.polls = 0
                self.report += self._load(address, min(size, room))
            elif size:
                room = self.run.capture.room(fd)
                data = self._load(address, min(size, room))
                self.run.capture.write(fd, data, whole=size <= room)
            total += size
        self._save(written, struct.pack("<I", total & 0xFFFFFFFF))
        return _OK

    def _read(self, fd: int, vectors: int, count: int, got: int) -> int:
        if fd not in (0, _QUESTION_FD):
            return _BAD_FD
        if count > _MAX_VECTORS:
            return _INVALID
        if fd == _QUESTION_FD:
            self._save(got, struct.pack("<I", self.polls == 1))
            self.polls = 0
            return _OK
        total = 0
        for address, size in self._vectors(vectors, count):
            data = self.stdin[self.position : self.position + size]
            self._save(address, data)
            self.position += len(data)
            total += len(data)
        self._save(got, struct.pack("<I", total))
        return _OK

    def _stat(self, fd: int, at: int) -> int:
        if fd not in (0, STDOUT, STDERR, RESULT_FD):
            return _BAD_FD
        kind = _CHARACTER_DEVICE if fd == 0 else _REGULAR_FILE
        self._save(at, struct.pack("<BxHxxxxQQ", kind, 0, _ALL_RIGHTS, _ALL_RIGHTS))
        return _OK

    def _clock(self, clock: int, _precision: int, at: int) -> int:
        now = time.time_ns() if clock == 0 else time.monotonic_ns()
        self._save(at, struct.pack("<Q", now))
        return _OK

    def _no_environment(self, count: int, size: int) -> int:
        self._save(count, b"\0\0\0\0")
        self._save(size, b"\0\0\0\0")
        return _OK

    def _poll(self, subscriptions: int, events: int, count: int, ready: int) -> int:
        if not 0 < count <= _MAX_VECTORS or self.run is None:
            return _INVALID
        raw = self._load(subscriptions, 48 * count)
        waits: list[tuple[float, int, int]] = []
        for index in range(count):
            user, kind = struct.unpack_from("<QB", raw, 48 * index)
            wait = 0.0
            if kind == _CLOCK:
                clock, timeout, _precision, flags = struct.unpack_from("<IxxxxQQH", raw, 48 * index + 16)
                if flags & _ABSOLUTE:
                    timeout -= time.time_ns() if clock == 0 else time.monotonic_ns()
                wait = max(0.0, timeout / 1e9)
            waits.append((wait, user, kind))
        shortest = min(wait for wait, _, _ in waits)
        if shortest > _FAR_SECONDS:
            self.polls += 1
            if self.report and self.polls > _LAST_POLLS:
                raise GuestIdle
            self._save(ready, b"\0\0\0\0")
            return _OK
        left = self.run.left
        time.sleep(min(shortest, left))
        if shortest > left:
            raise OutOfTime
        due = [(user, kind) for wait, user, kind in waits if wait <= shortest]
        blob = b"".join(struct.pack("<QHB21x", user, 0, kind) for user, kind in due)
        self._save(events, blob)
        self._save(ready, struct.pack("<I", len(due)))
        return _OK

    def unhandled(self) -> str | None:
        """Return the rejection nobody handled, as the engine worded it after the report, or None."""
        late = b"" if self.run is None else self.run.capture.streams[STDERR][self.told :]
        if not late.startswith(_UNHANDLED):
            return None
        return bytes(late[len(_UNHANDLED) :]).decode("utf-8", "replace").splitlines()[0]

    def reported(self) -> dict[str, Any] | None:
        """Return what the prelude reported last, or None when there is no well-formed report."""
        lines = self.report.splitlines()
        try:
            report = json.loads(lines[-1].decode("utf-8", "replace"))
        except (ValueError, IndexError):
            return None
        return report if isinstance(report, dict) else None

    def _load(self, at: int, size: int) -> bytearray:
        if at + size > self.memory.data_len(self.store):
            raise IndexError
        return self.memory.read(self.store, at, at + size)

    def _save(self, at: int, data: bytes | bytearray) -> None:
        if at + len(data) > self.memory.data_len(self.store):
            raise IndexError
        self.memory.write(self.store, data, at)
