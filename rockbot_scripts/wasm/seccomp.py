"""Builds the system call filter of a worker: a classic BPF program over `struct seccomp_data` (seccomp(2))."""

from __future__ import annotations

import struct
from typing import Final

from rockbot_scripts.wasm.syscalls import ALLOWED, Architecture

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM: Final = 1
ENOSYS: Final = 38
_PROT_EXEC = 4
_CLONE_THREAD = 0x00010000


def _step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)


def _argument(index: int) -> int:
    """Offset of the low half of an argument (both families are little-endian)."""
    return _ARGUMENTS + 8 * index


def program(architecture: Architecture) -> bytes:
    """Return the filter: what is allowed passes, the rest fails with EPERM, a foreign calling convention kills.

    clone3 fails with ENOSYS, because its flags cannot be inspected and the C library then falls back to clone.
    """
    numbers = architecture.numbers
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, architecture.audit, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
    ]
    if architecture.high_bit is not None:
        steps += [_step(_JUMP_AT_LEAST, architecture.high_bit, 0, 1), _step(_RETURN, _KILL_PROCESS)]
    for name in ALLOWED:
        if name in numbers:
            steps += [_step(_JUMP_EQUAL, numbers[name], 0, 1), _step(_RETURN, _ALLOW)]
    for name in ("mmap", "mprotect"):
        steps += [
            _step(_JUMP_EQUAL, numbers[name], 0, 4),
            _step(_LOAD, _argument(2)),
            _step(_JUMP_ANY_BIT, _PROT_EXEC, 0, 1),
            _step(_RETURN, _ERRNO | EPERM),
            _step(_RETURN, _ALLOW),
        ]
    steps += [
        _step(_JUMP_EQUAL, numbers["clone"], 0, 4),
        _step(_LOAD, _argument(0)),
        _step(_JUMP_ANY_BIT, _CLONE_THREAD, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | EPERM),
        _step(_JUMP_EQUAL, numbers["clone3"], 0, 1),
        _step(_RETURN, _ERRNO | ENOSYS),
        _step(_RETURN, _ERRNO | EPERM),
    ]
    return b"".join(steps)
