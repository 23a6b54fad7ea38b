"""Runs one JavaScript program in a fresh instance of QuickJS.

The engine gets our prelude and the script as one module; the prelude evaluates the script and reports its end on a
channel of its own. What the guest may ask of us is in `wasi`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, final

import wasmtime

from rockbot_scripts.wasm.runs import Ending, OutOfTime, OutputFull, Run, reported, trapped
from rockbot_scripts.wasm.wasi import GuestExit, GuestIdle, Wasi

_GUEST = Path(__file__).parent / "guest"
PRELUDE = f"const __library = {json.dumps((_GUEST / 'library.js').read_text(encoding='utf-8'))};" + (
    _GUEST / "prelude.js"
).read_text(encoding="utf-8")

_LAST_PIECE = 1024 * 1024
_SPEECHLESS = ("Uncaught null", "out of bounds memory access", "wasm `unreachable` instruction executed", "")


@final
class JavaScriptGuest:
    """The loaded engine; `run` makes an instance, uses it once and throws it away."""

    def __init__(self, engine: wasmtime.Engine, compiled: wasmtime.Module) -> None:
        self._engine = engine
        self._wasi = Wasi()
        linker = wasmtime.Linker(engine)
        for item in compiled.imports:
            if not isinstance(item.type, wasmtime.FuncType) or item.name is None:
                raise wasmtime.WasmtimeError(f"unexpected import {item.module}.{item.name}")
            linker.define_func(item.module, item.name, item.type, self._wasi.function(item.name))
        self._linker = linker
        self._ready = linker.instantiate_pre(compiled)

    def run(self, run: Run) -> Ending:
        """Run the script to its end, whatever that is; never raises for what the guest does."""
        order = run.order
        store = wasmtime.Store(self._engine)
        memory: wasmtime.Memory | None = None
        ending: Ending
        try:
            store.set_limits(memory_size=order.memory, instances=10, tables=10, memories=4, table_elements=100_000)
            store.set_epoch_deadline(1)
            exports: Any = self._ready.instantiate(store).exports(store)
            memory = exports["memory"]
            self._wasi.begin(run, store, memory)
            exports["_initialize"](store)
            program = f"{PRELUDE}await __main({json.dumps(order.code)},{order.output});"
            arguments = _write_arguments(store, exports, ("qjs", "--std", "-m", "-e", program))
            code = exports["qjs_init_argv"](store, *arguments)
            ending = self._ended(order.output, exit_code=None, failed=code != 0)
        except GuestExit as left:
            ending = self._ended(order.output, exit_code=left.code, failed=False)
        except GuestIdle:
            ending = self._ended(order.output, exit_code=None, failed=False)
        except OutputFull:
            ending = Ending("output_limit")
        except OutOfTime:
            ending = Ending("timeout")
        except (wasmtime.Trap, wasmtime.WasmtimeError) as failure:
            ending = trapped(str(failure))
        finally:
            size = None if memory is None else memory.data_len(store)
            self._wasi.run = None
            store.close()
        if ending.status in ("error", "crashed") and _is_full(size, order.memory, ending.reason):
            ending = Ending("oom", trapped=ending.trapped)
        ending.memory = size
        return ending

    def _ended(self, limit: int, *, exit_code: int | None, failed: bool) -> Ending:
        report = self._wasi.reported()
        if report is None:
            if exit_code is not None:
                return Ending("ok" if exit_code == 0 else "error", exit_code=exit_code)
            return Ending("error" if failed else "ok", reason="the script ended without a result")
        unhandled = self._wasi.unhandled()
        if unhandled is not None:
            return Ending("error", reason=unhandled[:1000])
        value = report.get("value")
        return reported(
            str(report.get("ending")),
            value=str(value) if value is not None else None,
            cut=bool(report.get("cut")),
            exit_code=0,
            reason=str(report.get("reason", ""))[:1000],
            limit=limit,
        )


def _is_full(size: int | None, limit: int, reason: str) -> bool:
    """Tell whether the guest ran out of memory so thoroughly that it could not even make the error object."""
    return size is not None and limit - size < _LAST_PIECE and reason in _SPEECHLESS


def _write_arguments(store: wasmtime.Store, exports: Any, arguments: tuple[str, ...]) -> tuple[int, int]:
    pointers = []
    for argument in arguments:
        data = argument.encode() + b"\0"
        at = exports["malloc"](store, len(data))
        if at == 0:
            raise wasmtime.WasmtimeError("the guest has no memory for the script")
        exports["memory"].write(store, data, at)
        pointers.append(at)
    block = struct.pack(f"<{len(pointers) + 1}I", *pointers, 0)
    at = exports["malloc"](store, len(block))
    exports["memory"].write(store, block, at)
    return len(pointers), at
