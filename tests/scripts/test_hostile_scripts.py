"""Scripts that mean harm. Each comes back as a clear result within its limit, and the next run is served as usual."""

# ruff: noqa: E501 - scripts are easier to read in one line
from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from rockbot_scripts.contract import Language, ScriptInvoke, ScriptLimits, ScriptResult
from rockbot_scripts.wasm.pool import WasmPool

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

WALL = 1.0
#: For what ends in another way: no machine is so busy that time ends it first.
PATIENT = 120.0
SLACK = 60.0
"""Seconds a result may be late: half a second of grace, the rest for a busy machine; the attacks would go on for ten minutes."""


@dataclass(frozen=True)
class Attack:
    name: str
    language: Language
    code: str
    status: str | tuple[str, ...]
    says: str = ""
    memory: int = 128 << 20

    @property
    def wall(self) -> float:
        return WALL if "timeout" in self.status else PATIENT


FORGED = "f = lambda: 0\nf.__code__ = f.__code__.replace(co_code=bytes([100, 255] * 40))\nf()"
PYTHON = [
    Attack("endless loop", "python", "while True: pass", "timeout", "1 s"),
    Attack("one long calculation", "python", "sum(range(10**12))", "timeout"),
    Attack("huge power", "python", "10**10**8", ("timeout", "oom")),
    Attack("regular expression that explodes", "python", "import re; re.match('(a+)+$', 'a' * 40 + 'b')", "timeout"),
    Attack("swallowing every exception", "python", "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout"),
    Attack("sleep past the deadline", "python", "import time\nprint('kept')\ntime.sleep(600)", "timeout"),
    Attack("wait in the engine", "python", "import select\nprint('kept')\nselect.select([], [], [], 600)", "timeout"),
    Attack("memory bomb", "python", "x = []\nwhile True: x.append(bytearray(10**6))", "oom", "128 MiB"),
    Attack("one huge allocation", "python", "bytearray(10**9)", "oom"),
    Attack("100 MB of output", "python", "print('x' * 100_000_000)", ("output_limit", "oom"), memory=512 << 20),
    Attack("100 MB in small pieces", "python", "for _ in range(100_000): print('x' * 999)", "output_limit", "1 MiB"),
    Attack("100 MB to standard error", "python", "import sys\nwhile True: sys.stderr.write('x' * 9999)", "output_limit"),
    Attack("swallowing the output limit", "python", "while True:\n    try:\n        print('x' * 9999)\n    except BaseException: pass", "output_limit"),
    Attack("deep recursion", "python", "def f(): f()\nf()", "stack_overflow"),
    Attack("recursion without its guard", "python", "import sys\nsys.setrecursionlimit(10**8)\ndef f(): f()\nf()", ("stack_overflow", "oom")),
    Attack("deeply nested JSON", "python", "import json; json.loads('[' * 100_000)", "stack_overflow"),
    Attack("deeply nested source", "python", "eval('(' * 5000 + ')' * 5000)", ("error", "stack_overflow", "oom")),
    Attack("read a file", "python", "open('/etc/passwd').read()", "error", "FileNotFoundError"),
    Attack("climb out", "python", "open('../../../../etc/passwd').read()", "error"),
    Attack("write a file", "python", "open('/tmp/x', 'w').write('x')", "error"),
    Attack("list the root", "python", "import os; os.listdir('/')", "error"),
    Attack("TCP socket", "python", "import socket\ns = socket.socket()\ns.connect(('127.0.0.1', 80))", "error"),
    Attack("name lookup", "python", "import socket; socket.getaddrinfo('example.com', 80)", "error"),
    Attack("listening socket", "python", "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()", "error"),
    Attack("HTTP", "python", "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')", "error"),
    Attack("subprocess", "python", "import subprocess; subprocess.run(['ls'])", "error"),
    Attack("fork", "python", "import os; os.fork()", "error"),
    Attack("system", "python", "import os; os.system('ls')", "error"),
    Attack("thread", "python", "import threading; threading.Thread(target=print).start()", "error"),
    Attack("native code", "python", "import ctypes", "error", "No module named"),
    Attack("abort", "python", "import os; os.abort()", "crashed"),
    # What lies behind the constants of a function differs between builds.
    Attack("forged bytecode", "python", FORGED, ("crashed", "error")),
    Attack("broken streams", "python", "import sys\nsys.stdout = sys.stderr = None\n1/0", "error", "ZeroDivisionError"),
    Attack("emit by hand", "python", "from wit_world.imports import host\nhost.emit(99, 'x')\nwhile True: host.emit(1, 'x' * 99999)", ("output_limit", "error")),
]  # fmt: skip
JAVASCRIPT = [
    Attack("endless loop", "javascript", "for (;;);", "timeout", "1 s"),
    Attack("endless promises", "javascript", "while (true) await 1", "timeout"),
    Attack("endless timers", "javascript", "setInterval(() => {}, 1)", "timeout"),
    Attack("swallowing every exception", "javascript", "for (;;) try { for (;;); } catch {}", "timeout"),
    Attack("sleep past the deadline", "javascript", "console.log('kept'); await new Promise(f => setTimeout(f, 600000))", "timeout"),
    Attack("regular expression that explodes", "javascript", "/(a+)+$/.test('a'.repeat(40) + 'b')", "timeout"),
    Attack("memory bomb", "javascript", "const a = []; for (;;) a.push(new ArrayBuffer(1e6))", "oom", "128 MiB"),
    Attack("many small objects", "javascript", "const a = []; for (;;) a.push({})", ("oom", "timeout")),
    Attack("100 MB of output", "javascript", "console.log('x'.repeat(1e8))", ("output_limit", "oom"), memory=512 << 20),
    Attack("endless output", "javascript", "for (;;) console.log('x'.repeat(999))", "output_limit", "1 MiB"),
    Attack("endless errors", "javascript", "for (;;) console.error('x'.repeat(999))", "output_limit"),
    Attack("deep recursion", "javascript", "(function f() { f() })()", "stack_overflow"),
    Attack("deeply nested JSON", "javascript", "JSON.parse('['.repeat(1e6))", ("stack_overflow", "error")),
    Attack("promise that never settles", "javascript", "await new Promise(() => {})", "error", "nothing can settle"),
    Attack("engine modules", "javascript", "const std = await import('std'); std.loadFile('/etc/passwd')", "error", "could not load"),
    Attack("engine globals", "javascript", "os.open('/etc/passwd', 0)", "error", "os is not defined"),
    Attack("network", "javascript", "fetch('http://127.0.0.1/')", "error", "fetch is not defined"),
    Attack("worker", "javascript", "new Worker('x')", "error"),
    Attack("throwing a getter", "javascript", "throw Object.create(Error.prototype, {message: {get() { throw this }}})", ("error", "stack_overflow")),
    Attack("proxy without end", "javascript", "const p = new Proxy({}, {get: (t, k) => p[k]}); p.x", "stack_overflow"),
]  # fmt: skip


@pytest.mark.parametrize("attack", PYTHON + JAVASCRIPT, ids=lambda attack: f"{attack.language}: {attack.name}")
async def test_an_attack_ends_as_a_clear_result_and_the_next_run_is_served(pool: WasmPool, attack: Attack) -> None:
    limits = ScriptLimits(wall_seconds=attack.wall, memory_bytes=attack.memory)
    began = time.monotonic()
    result = await pool.run(ScriptInvoke(language=attack.language, code=attack.code, limits=limits))
    taken = time.monotonic() - began
    expected = (attack.status,) if isinstance(attack.status, str) else attack.status
    assert result.status in expected, result
    assert attack.says in result.message, result.message
    assert len(result.stdout.encode()) <= limits.output_bytes
    assert len(result.stderr.encode()) <= limits.output_bytes
    assert taken < attack.wall + SLACK
    if "kept" in attack.code:
        assert result.stdout == "kept\n"
    await _is_served(pool)


async def _is_served(pool: WasmPool) -> None:
    after: ScriptResult = await pool.run(ScriptInvoke(language="python", code="6 * 7"))
    assert (after.status, after.value) == ("ok", "42")
    after = await pool.run(ScriptInvoke(language="javascript", code="6 * 7"))
    assert (after.status, after.value) == ("ok", "42")


async def test_the_guest_sees_no_environment_and_no_arguments(pool: WasmPool) -> None:
    result = await pool.run(ScriptInvoke(language="python", code="import os, sys\n(dict(os.environ), sys.argv)"))
    assert result.value == "({}, ['<script>'])"
