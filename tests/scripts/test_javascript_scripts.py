"""What a JavaScript program can do, and how its result looks."""

# ruff: noqa: E501 - scripts are easier to read in one line
from __future__ import annotations

import pytest

from rockbot_scripts.contract import ScriptInvoke, ScriptLimits, ScriptResult
from rockbot_scripts.wasm.pool import WasmPool

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def _run(pool: WasmPool, code: str, stdin: str = "", limits: ScriptLimits | None = None) -> ScriptResult:
    return await pool.run(ScriptInvoke(language="javascript", code=code, input=stdin, limits=limits))


async def test_hello_world_goes_to_standard_output(pool: WasmPool) -> None:
    result = await _run(pool, "console.log('Hello, world')")
    assert (result.status, result.stdout, result.stderr, result.value) == ("ok", "Hello, world\n", "", None)
    assert result.engine.startswith("quickjs-ng")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("12 * (3 + 4)", "84"),
        ("-0", "-0"),
        ("2n ** 70n", "1180591620717411303424n"),
        ("'it''s'".replace("''", "\\'"), '"it\'s"'),
        ("'é😀'", "'é😀'"),
        ("undefined", None),
        ("null", "null"),
        ("let x = 5; x", "5"),
        ("({a: 1, 'b-c': [1, 'two', null]})", "{ a: 1, 'b-c': [ 1, 'two', null ] }"),
        ("new Map([[1, new Set([2])]])", "Map(1) { 1 => Set(1) { 2 } }"),
        ("class A { x = 1 } new A()", "A { x: 1 }"),
        ("const o = {}; o.o = o; o", "{ o: [Circular] }"),
        ("Promise.resolve(4)", "4"),
        ("await new Promise(done => setTimeout(() => done('late'), 5))", "'late'"),
        ("new TextDecoder().decode(new TextEncoder().encode('aé日😀'))", "'aé日😀'"),
        ("structuredClone({d: new Date(0), n: [1]})", "{ d: 1970-01-01T00:00:00.000Z, n: [ 1 ] }"),
        ("JSON.stringify = () => 'mine'; 5", "5"),
    ],
)
async def test_the_last_expression_is_the_value(pool: WasmPool, code: str, value: str | None) -> None:
    result = await _run(pool, code)
    assert (result.status, result.value) == ("ok", value), result.stderr


async def test_input_is_a_global_text(pool: WasmPool) -> None:
    assert (await _run(pool, "input.split('\\n').length", "a\nb ü\nc")).value == "3"
    assert (await _run(pool, "const input = 1; input", "a")).value == "1"


async def test_the_largest_input_is_taken(pool: WasmPool) -> None:
    result = await _run(pool, "input.length", "x" * (8 << 20))
    assert (result.status, result.value) == ("ok", str(8 << 20)), result.message


async def test_the_console_writes_to_both_streams_and_formats(pool: WasmPool) -> None:
    result = await _run(pool, "console.log('%s is %d', 'x', 3, [1]); console.error('oops'); console.warn({a: 1})")
    assert (result.stdout, result.stderr) == ("x is 3 [ 1 ]\n", "oops\n{ a: 1 }\n")


async def test_the_program_ends_when_no_timer_and_no_promise_is_left(pool: WasmPool) -> None:
    code = (
        "const seen = []; const id = setInterval(() => { seen.push(1); if (seen.length === 3) clearInterval(id) }, 1);\n"
        "(async () => { await null; setTimeout(async () => { await null; setTimeout(() => console.log('deep', seen.length), 20) }, 1) })();\n"
        "setTimeout(() => console.log('never'), 60000) && 0;\nclearTimeout(3) ?? 'done'"
    ).replace("clearTimeout(3)", "clearTimeout(2)")
    result = await _run(pool, code)
    assert (result.status, result.value, result.stdout) == ("ok", "'done'", "deep 3\n"), result


async def test_promises_go_on_while_a_timer_waits(pool: WasmPool) -> None:
    code = "const t = setTimeout(() => console.log('never'), 600000); for (let i = 0; i < 2000; i++) await i; clearTimeout(t); 'fast'"
    result = await _run(pool, code, limits=ScriptLimits(wall_seconds=60))
    assert (result.status, result.value) == ("ok", "'fast'")


async def test_an_error_shows_the_script_and_nothing_of_the_host(pool: WasmPool) -> None:
    result = await _run(pool, "function half(x) { return x.y.z }\nhalf({})")
    assert result.status == "error"
    assert result.message.startswith("The script failed: TypeError: ")
    assert "at half (<script>:1" in result.stderr
    assert "cmdline" not in result.stderr


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("let x = (", "SyntaxError"),
        ("throw 'plain'", "Uncaught 'plain'"),
        ("setTimeout(() => { throw new Error('later') }, 1)", "Error: later"),
        ("Promise.reject(new Error('alone')); 1", "Error: alone"),
        ("async function f() { throw new Error('inside') }\nf(); console.log(1)", "Error: inside"),
        ("await new Promise(() => {})", "awaits a promise that nothing can settle"),
    ],
)
async def test_every_way_to_fail_is_an_error_with_a_reason(pool: WasmPool, code: str, reason: str) -> None:
    result = await _run(pool, code)
    assert result.status == "error", result
    assert reason in result.message
    assert result.stderr


async def test_a_script_may_end_itself(pool: WasmPool) -> None:
    result = await _run(pool, "console.log('before'); exit(3); console.log('after')")
    assert (result.status, result.exit_code, result.stdout) == ("error", 3, "before\n")
    assert (await _run(pool, "exit()")).status == "ok"


async def test_nothing_stays_from_one_run_to_the_next(pool: WasmPool) -> None:
    assert (await _run(pool, "globalThis.left = 1; Array.prototype.left = 2; left")).value == "1"
    assert (await _run(pool, "typeof left + [].left")).value == "'undefinedundefined'"


async def test_a_long_value_is_cut_and_said_to_be(pool: WasmPool) -> None:
    result = await _run(pool, "'é'.repeat(5000)", limits=ScriptLimits(output_bytes=1000))
    assert (result.status, result.truncated) == ("ok", True)
    assert result.value is not None
    assert 990 <= len(result.value.encode()) <= 1000
