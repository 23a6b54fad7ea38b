"""What a Python script can do, and how its result looks."""

# ruff: noqa: E501 - scripts are easier to read in one line
from __future__ import annotations

import pytest

from rockbot_scripts.contract import ScriptInvoke, ScriptLimits, ScriptResult
from rockbot_scripts.wasm.pool import WasmPool
from rockbot_scripts.wasm.worker import NAPS

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def _run(pool: WasmPool, code: str, stdin: str = "", limits: ScriptLimits | None = None) -> ScriptResult:
    return await pool.run(ScriptInvoke(language="python", code=code, input=stdin, limits=limits))


async def test_hello_world_goes_to_standard_output(pool: WasmPool) -> None:
    result = await _run(pool, "print('Hello, world')")
    assert (result.status, result.stdout, result.stderr, result.value) == ("ok", "Hello, world\n", "", None)
    assert result.message == "The script ran to its end."
    assert result.engine.startswith("cpython 3.14")
    assert result.memory_bytes is not None
    assert result.memory_bytes > 1 << 20


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("12 * (3 + 4)", "84"),
        ("x = 5\nx", "5"),
        ("x = 5", None),
        ("None", None),
        ("'é' * 2", "'éé'"),
        ("import json, math, statistics\n[json.dumps({'a': 1}), math.pi > 3, statistics.mean([1, 3])]", "['{\"a\": 1}', True, 2]"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(3)", "P(x=3)"),
        ("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))).__name__", "'A'"),
        ("import sqlite3\nsqlite3.connect(':memory:').execute('select 1+1').fetchone()", "(2,)"),
        ("__name__", "'__main__'"),
        ("import asyncio\nawait asyncio.sleep(0.001, 7)", "7"),
        ("import asyncio\nasync def main():\n    return sum(await asyncio.gather(*[asyncio.sleep(0, i) for i in range(4)]))\nasyncio.run(main())", "6"),
    ],
)  # fmt: skip
async def test_the_last_expression_is_the_value(pool: WasmPool, code: str, value: str | None) -> None:
    result = await _run(pool, code)
    assert (result.status, result.value) == ("ok", value), result.stderr


async def test_a_worker_warms_up_with_a_sleep_that_no_clock_can_skip(pool: WasmPool) -> None:
    hurried = f"""
import itertools, time
inner, naps, hours = time.sleep.__globals__, [], itertools.count()
nap = inner["_sleep"]
inner["_monotonic"] = lambda: 3600.0 * next(hours)
inner["_sleep"] = lambda seconds: naps.append(nap(seconds))
exec({NAPS!r})
len(naps)
"""
    result = await _run(pool, hurried)
    assert (result.status, result.value) == ("ok", "1"), result.stderr


async def test_input_is_standard_input(pool: WasmPool) -> None:
    result = await _run(pool, "import sys\n[input(), sys.stdin.read()]", "eins\nzwei ü\n")
    assert result.value == "['eins', 'zwei ü\\n']"


async def test_the_largest_input_is_taken(pool: WasmPool) -> None:
    result = await _run(pool, "import sys\nlen(sys.stdin.read())", "\x01" * (8 << 20))
    assert (result.status, result.value) == ("ok", str(8 << 20))


async def test_the_two_output_streams_stay_apart(pool: WasmPool) -> None:
    result = await _run(
        pool, "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stdout.buffer.write(b'\\xffc')\nNone"
    )
    assert (result.stdout, result.stderr) == ("a\n\ufffdc", "b\n")


async def test_unicode_and_broken_unicode_come_through(pool: WasmPool) -> None:
    result = await _run(pool, "print('日本 😀 \\ud800')\n'\\udfff'")
    assert (result.status, result.stdout, result.value) == ("ok", "日本 😀 ?\n", "'\\udfff'")


async def test_a_traceback_shows_the_script_and_nothing_of_the_host(pool: WasmPool) -> None:
    result = await _run(pool, "def half(x):\n    return x / 0\n\nhalf(4)")
    assert result.status == "error"
    assert result.message == "The script failed: ZeroDivisionError: division by zero."
    assert 'File "<script>", line 2, in half' in result.stderr
    assert "return x / 0" in result.stderr
    assert "app.py" not in result.stderr


async def test_a_syntax_error_is_shown_where_it_is(pool: WasmPool) -> None:
    result = await _run(pool, "x = (\n")
    assert result.status == "error"
    assert "'(' was never closed" in result.message
    assert 'File "<script>", line 1' in result.stderr


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "stderr"),
    [
        ("raise SystemExit", "ok", 0, ""),
        ("import sys; sys.exit(0)", "ok", 0, ""),
        ("import sys; sys.exit(3)", "error", 3, ""),
        ("import sys; sys.exit('gave up')", "error", 1, "gave up\n"),
        ("import os; os._exit(4)", "error", 1, ""),
    ],
)
async def test_a_script_may_end_itself(pool: WasmPool, code: str, status: str, exit_code: int, stderr: str) -> None:
    result = await _run(pool, f"print('before')\n{code}\nprint('after')")
    assert (result.status, result.exit_code, result.stdout, result.stderr) == (status, exit_code, "before\n", stderr)


async def test_nothing_stays_from_one_run_to_the_next(pool: WasmPool) -> None:
    first = await _run(pool, "import builtins, json\nbuiltins.left = 1\njson.left = 2\nleft_here = 3\nopen")
    assert first.status == "ok"
    second = await _run(
        pool,
        "import json\n[n for n in ('left', 'left_here') if n in globals() or n in dir(__builtins__)] + [hasattr(json, 'left')]",
    )
    assert second.value == "[False]"


async def test_random_numbers_differ_from_run_to_run(pool: WasmPool) -> None:
    code = "import random, uuid, secrets\n[random.random(), uuid.uuid4(), secrets.token_hex()]"
    assert (await _run(pool, code)).value != (await _run(pool, code)).value


async def test_a_long_value_is_cut_and_said_to_be(pool: WasmPool) -> None:
    result = await _run(pool, "'é' * 5000", limits=ScriptLimits(output_bytes=1000))
    assert result.status == "ok"
    assert result.truncated
    assert result.value is not None
    assert 990 <= len(result.value.encode()) <= 1000
