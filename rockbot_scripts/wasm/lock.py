"""The lock of a worker process: what it gives up, for good, before it reads the first request.

Resource limits, no new privileges, Landlock (no path, no port, no signal to others), then seccomp (a short list of
system calls). Plain ctypes on the kernel's interface. What a kernel does not offer is reported, never passed over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
from dataclasses import dataclass, field
from typing import Final, final

from rockbot_scripts.wasm import seccomp, syscalls

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FLAG_TSYNC = 1, 1
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_VERSION = 1
_OPEN_FILES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@final
@dataclass
class LockReport:
    """What is in force. `missing` names, for a reader, each part that this kernel does not offer."""

    seccomp: bool = False
    landlock_abi: int = 0
    missing: list[str] = field(default_factory=list)


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when its supervisor ends; leaves at once if that has happened already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(*, data_bytes: int) -> None:
    """No core files, no file that grows, few descriptors, and a bound on the memory of the whole process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def restrict(report: LockReport) -> None:
    """Give up new privileges, then files, network and signals by Landlock. Threads started later inherit it."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        report.missing.append(f"no_new_privs ({os.strerror(ctypes.get_errno())})")
    abi = _libc.syscall(syscalls.LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if abi < 1:
        report.missing.append(f"Landlock ({os.strerror(ctypes.get_errno())})")
        return
    files = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):
        if abi >= since:
            files |= 1 << bit
    fields = [files]
    if abi >= 4:
        fields.append(0b11)
    if abi >= 6:
        fields.append(0b11)
    rules = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _libc.syscall(syscalls.LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0 or _libc.syscall(syscalls.LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
        report.missing.append(f"Landlock ({os.strerror(ctypes.get_errno())})")
        return
    os.close(ruleset)
    report.landlock_abi = int(abi)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def filter_calls(report: LockReport) -> None:
    """Install the system call filter in every thread of the process."""
    architecture = syscalls.current()
    if architecture is None:
        report.missing.append("seccomp (no system call table for this processor)")
        return
    steps = seccomp.program(architecture)
    buffer = ctypes.create_string_buffer(steps, len(steps))
    packed = _Program(len(steps) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    number = _SECCOMP[architecture.name]
    done = _libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FLAG_TSYNC, ctypes.byref(packed))
    if done != 0:
        report.missing.append(f"seccomp ({os.strerror(ctypes.get_errno())})")
        return
    report.seccomp = True


def probe() -> dict[str, str]:
    """Call what must be refused, with harmless arguments, and return the outcome by name.

    Only for a process in which the filter is installed: without it some of these calls would take effect.
    """
    architecture = syscalls.current()
    if architecture is None:
        return {}
    outcome: dict[str, str] = {}
    for name in syscalls.PROBED:
        if name in architecture.numbers:
            outcome[name] = _refusal(architecture.numbers[name], name)
    numbers = architecture.numbers
    outcome["clone"] = _refusal(numbers["clone"], "clone", signal.SIGCHLD)
    outcome["clone3"] = _refusal(numbers["clone3"], "clone3")
    outcome["mmap_exec"] = _refusal(numbers["mmap"], "mmap", 0, 4096, 7, 0x22, -1, 0)
    outcome["mmap_plain"] = _refusal(numbers["mmap"], "mmap", 0, 4096, 3, 0x22, -1, 0)
    return outcome


def _refusal(number: int, name: str, *arguments: int) -> str:
    given = arguments or ((-100, 0, 0, 0) if name in ("openat", "execveat") else (0, 0, 0, 0))
    got = _libc.syscall(*(ctypes.c_long(value) for value in (number, *given)))
    if got == 0 and name in ("fork", "vfork", "clone"):
        os._exit(1)
    return "ok" if got >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
