"""The lock of a worker: its filter as a program, and what a locked worker is refused by the kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm import seccomp, syscalls
from rockbot_scripts.wasm.pool import WasmPool

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
BOTH = pytest.mark.parametrize("architecture", [syscalls.X86_64, syscalls.AARCH64], ids=lambda a: a.name)


def _judge(architecture: syscalls.Architecture, number: int, *arguments: int, audit: int | None = None) -> int:
    """Run the filter as the kernel does (classic BPF over struct seccomp_data)."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, architecture.audit if audit is None else audit, 0, *given)
    program = seccomp.program(architecture)
    steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, when_true, when_false, value = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += when_true if holds else when_false


@BOTH
def test_the_filter_passes_what_is_allowed_and_refuses_what_is_probed(architecture: syscalls.Architecture) -> None:
    for name in syscalls.ALLOWED:
        if name in architecture.numbers:
            assert _judge(architecture, architecture.numbers[name]) == ALLOW, name
    for name in syscalls.PROBED:
        if name in architecture.numbers:
            assert _judge(architecture, architecture.numbers[name]) == EPERM, name


@BOTH
def test_memory_is_never_made_executable(architecture: syscalls.Architecture) -> None:
    for name in ("mmap", "mprotect"):
        number = architecture.numbers[name]
        for protection in range(8):
            expected = EPERM if protection & 4 else ALLOW
            assert _judge(architecture, number, 0, 4096, protection) == expected


@BOTH
def test_only_threads_are_cloned(architecture: syscalls.Architecture) -> None:
    assert _judge(architecture, architecture.numbers["clone"], 0x00010000 | 0x100) == ALLOW
    assert _judge(architecture, architecture.numbers["clone"], 17) == EPERM
    assert _judge(architecture, architecture.numbers["clone3"]) == ENOSYS


@BOTH
@given(number=st.integers(0, 2**32 - 1))
def test_a_call_that_nobody_listed_is_refused(architecture: syscalls.Architecture, number: int) -> None:
    listed = {
        architecture.numbers[n]
        for n in (*syscalls.ALLOWED, "mmap", "mprotect", "clone", "clone3")
        if n in architecture.numbers
    }
    if number not in listed:
        assert _judge(architecture, number) in (EPERM, KILL)


@BOTH
def test_a_foreign_calling_convention_ends_the_process(architecture: syscalls.Architecture) -> None:
    assert _judge(architecture, 0, audit=0x40000003) == KILL
    if architecture.high_bit is not None:
        assert _judge(architecture, architecture.high_bit) == KILL


@pytest.mark.sandbox
async def test_a_locked_worker_is_refused_every_way_out_by_the_kernel() -> None:
    pool = WasmPool(ScriptSettings(workers=1))
    await pool.start()
    try:
        lock = pool.describe()["lock"]
        assert isinstance(lock, dict)
        assert lock["seccomp"] is True, lock
        calls = await pool.probe()
    finally:
        await pool.close()
    for name in (
        "openat",
        "socket",
        "connect",
        "execve",
        "clone",
        "ptrace",
        "kill",
        "memfd_create",
        "mmap_exec",
        "bpf",
    ):
        assert calls[name] == "EPERM", name
    assert calls.get("fork", "EPERM") == "EPERM"
    assert calls["clone3"] == "ENOSYS"
    assert calls["mmap_plain"] == "ok"
