"""What a worker knows about one run: the order, the captured output, and how the run ended.

Plain data without pydantic: a worker process imports as little as possible.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, final

STDOUT, STDERR = 1, 2

_TRAP = re.compile(r"wasm trap: ([^\n]*)")


@final
@dataclass(frozen=True)
class Order:
    """One run as the supervisor asks for it. Sizes are bytes, `wall` is seconds."""

    id: int
    language: str
    code: str
    input: str
    wall: float
    memory: int
    output: int

    @classmethod
    def from_frame(cls, frame: dict[str, Any]) -> Order:
        """Read an order out of a request frame; raises KeyError, TypeError or ValueError on a malformed one."""
        return cls(
            id=int(frame["id"]),
            language=str(frame["language"]),
            code=str(frame["code"]),
            input=str(frame["input"]),
            wall=float(frame["wall"]),
            memory=int(frame["memory"]),
            output=int(frame["output"]),
        )


class OutputFull(Exception):
    """The guest wrote more than its output limit."""


class OutOfTime(Exception):
    """The guest slept past its deadline."""


@final
class Capture:
    """Standard output and standard error of one run, each bounded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.streams = {STDOUT: bytearray(), STDERR: bytearray()}
        self.truncated = False

    def room(self, fd: int) -> int:
        """Return how many bytes stream `fd` still takes."""
        return self.limit - len(self.streams[fd])

    def write(self, fd: int, data: bytes | bytearray, *, whole: bool = True) -> None:
        """Append to a stream; raises OutputFull once it would exceed the limit. `whole=False`: data was cut."""
        room = self.room(fd)
        self.streams[fd] += data[:room]
        if len(data) > room or not whole:
            self.truncated = True
            raise OutputFull

    def text(self, fd: int) -> str:
        """Return what stream `fd` got, as text; bytes that are not UTF-8 are replaced."""
        return bytes(self.streams[fd]).decode("utf-8", "replace")


@final
@dataclass
class Ending:
    """How a run ended, before anybody words it."""

    status: str
    value: str | None = None
    cut: bool = False
    exit_code: int | None = None
    reason: str = ""
    memory: int | None = None
    trapped: bool = False


@final
@dataclass
class Run:
    """A run under way: its order, its captured output, and when it began and must end (monotonic seconds)."""

    order: Order
    started: float = field(default_factory=time.monotonic)
    capture: Capture = field(init=False)

    def __post_init__(self) -> None:
        self.capture = Capture(self.order.output)

    @property
    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.started + self.order.wall - time.monotonic())

    def frame(self, ending: Ending, *, leaving: bool) -> dict[str, Any]:
        """Return the answer to the supervisor; `leaving` tells that this worker ends itself after it."""
        return {
            "op": "done",
            "id": self.order.id,
            "status": ending.status,
            "value": ending.value,
            "stdout": self.capture.text(STDOUT),
            "stderr": self.capture.text(STDERR),
            "truncated": self.capture.truncated or ending.cut,
            "exit_code": ending.exit_code,
            "wall_ms": (time.monotonic() - self.started) * 1000.0,
            "memory": ending.memory,
            "reason": ending.reason,
            "leaving": leaving,
        }


def reported(kind: str, *, value: str | None, cut: bool, exit_code: int, reason: str, limit: int) -> Ending:
    """Translate what the guest program says about itself into an ending; `limit` bounds the value in bytes."""
    match kind:
        case "done":
            data = None if value is None else value.encode("utf-8", "replace")
            if data is None:
                return Ending("ok")
            return Ending("ok", value=data[:limit].decode("utf-8", "ignore"), cut=cut or len(data) > limit)
        case "exited":
            return Ending("ok" if exit_code == 0 else "error", exit_code=exit_code, reason=reason)
        case "memory":
            return Ending("oom")
        case "recursion":
            return Ending("stack_overflow", reason=reason)
        case _:
            return Ending("error", reason=reason)


def trapped(message: str) -> Ending:
    """Translate the text of a WebAssembly trap into an ending; the text is the only thing the engine gives."""
    found = _TRAP.search(message)
    trap = found.group(1) if found else ""
    if trap == "interrupt":
        return Ending("timeout")
    if trap == "call stack exhausted":
        return Ending("stack_overflow", reason=trap, trapped=True)
    return Ending("crashed", reason=trap or message.strip().splitlines()[0][:200], trapped=True)
