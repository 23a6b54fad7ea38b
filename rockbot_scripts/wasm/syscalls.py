"""System call numbers of the two processor families that the worker lock knows, and what a locked worker may call.

Numbers follow the kernel's tables (x86: arch/x86/entry/syscalls/syscall_64.tbl, arm: include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Final, final


@final
@dataclass(frozen=True)
class Architecture:
    """One processor family: its audit number (linux/audit.h) and its system call table."""

    name: str
    audit: int
    numbers: dict[str, int]
    high_bit: int | None = None
    """Numbers from here on belong to a second calling convention (x32) and end the process."""


X86_64: Final = Architecture(
    "x86_64",
    0xC000003E,
    {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17,
        "readv": 19, "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39,
        "clone": 56, "exit": 60, "gettid": 186, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219,
        "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232,
        "epoll_ctl": 233, "sigaltstack": 131, "epoll_pwait": 281, "ppoll": 271, "set_robust_list": 273,
        "getrandom": 318, "membarrier": 324, "rseq": 334, "clone3": 435, "epoll_pwait2": 441,
        "open": 2, "socket": 41, "connect": 42, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101,
        "mount": 165, "openat": 257, "unshare": 272, "prlimit64": 302, "memfd_create": 319, "bpf": 321,
        "execveat": 322, "io_uring_setup": 425, "process_vm_readv": 310, "ioctl": 16,
    },
    high_bit=0x40000000,
)  # fmt: skip

AARCH64: Final = Architecture(
    "aarch64",
    0xC00000B7,
    {
        "epoll_ctl": 21, "epoll_pwait": 22, "ioctl": 29, "mount": 40, "openat": 56, "close": 57, "lseek": 62,
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "ppoll": 73, "fstat": 80, "exit": 93,
        "exit_group": 94, "unshare": 97, "futex": 98, "set_robust_list": 99, "nanosleep": 101,
        "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "ptrace": 117, "sched_getaffinity": 123,
        "sched_yield": 124, "restart_syscall": 128, "kill": 129, "sigaltstack": 132, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "getpid": 172, "gettid": 178, "socket": 198, "connect": 203,
        "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "execve": 221, "mmap": 222, "mprotect": 226,
        "madvise": 233, "prlimit64": 261, "process_vm_readv": 270, "getrandom": 278, "memfd_create": 279,
        "bpf": 280, "execveat": 281, "membarrier": 283, "rseq": 293, "io_uring_setup": 425, "clone3": 435,
        "epoll_pwait2": 441,
    },
)  # fmt: skip

ALLOWED: Final = (
    "read", "write", "close", "fstat", "lseek", "pread64", "readv", "writev", "poll", "ppoll", "epoll_wait",
    "epoll_pwait", "epoll_pwait2", "epoll_ctl", "futex", "sched_yield", "sched_getaffinity", "clock_gettime",
    "clock_getres", "clock_nanosleep", "nanosleep", "restart_syscall", "madvise", "munmap", "mremap", "brk",
    "sigaltstack", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "getrandom", "getpid", "gettid", "exit",
    "exit_group", "set_robust_list", "rseq", "membarrier",
)  # fmt: skip
"""Allowed with any arguments. mmap and mprotect are allowed without PROT_EXEC, clone only for threads."""

PROBED: Final = (
    "open", "openat", "socket", "connect", "execve", "execveat", "fork", "vfork", "ptrace", "kill", "memfd_create",
    "io_uring_setup", "bpf", "unshare", "mount", "prlimit64", "process_vm_readv", "ioctl",
)  # fmt: skip
"""What the self-test of a locked worker calls, expecting to be refused."""

# Landlock's calls have the same numbers everywhere.
LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_RESTRICT_SELF: Final = 446


def current() -> Architecture | None:
    """Return the table of this machine, None when the lock does not know it."""
    return {"x86_64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}.get(platform.machine())
