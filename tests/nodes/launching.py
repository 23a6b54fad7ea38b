"""Starting and killing servers for tests, whatever they are."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

#: Where ports are taken from: below those that the kernel lends to clients and to servers that do not care.
_PORTS: Final = range(18_000, 32_000)
#: What marks a port as this process's: gone with the process, also when that is killed.
_taken: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else who asks here is given while this process lives.

    A server may be down for a while and find its port free: no client and no other server is lent it meanwhile.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)  # whoever repeats a run by its seed repeats no ports
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0rockbot-tests-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _taken.append(mark)
        return port


def launch(command: list[str], *, env: dict[str, str], cwd: Path, console: Path) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own that ends with this process, also when that is killed."""
    with console.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py")), *command],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to everything that `launch` started; returns when all of it has let go of its ports, files and memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
    gone([one.pid for one in processes() if one.group == process.pid])


class Process(NamedTuple):
    """What the kernel says of a process."""

    pid: int
    state: str
    parent: int
    group: int


def processes() -> Iterator[Process]:
    """Every process that there is."""
    for folder in Path("/proc").glob("[0-9]*"):
        if (found := look_at(int(folder.name))) is not None:
            yield found


def look_at(pid: int) -> Process | None:
    """One process, unless it has ended."""
    with contextlib.suppress(OSError):
        state, parent, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        if state not in "ZX":
            return Process(pid, state, int(parent), int(group))
    return None


def gone(pids: Iterable[int]) -> None:
    """Return when these processes, which were killed, have ended: a signal is sent sooner than it is obeyed."""
    for pid in pids:
        while look_at(pid) is not None:
            time.sleep(0.002)
