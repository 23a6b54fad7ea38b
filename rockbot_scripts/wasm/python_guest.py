"""Runs one Python script in a fresh instance of the CPython component.

Nothing is inherited: no arguments, environment, streams, directories or network. The only import of our own is
`emit`, through which the guest hands out what it prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import wasmtime
from wasmtime import component

from rockbot_scripts.wasm.runs import STDERR, STDOUT, Ending, OutputFull, Run, reported, trapped

_INTERFACE = "rockbot:runner/host"
_VALUE_LIMIT = 0xFFFFFFFF


@final
class PythonGuest:
    """The loaded component; `run` makes an instance, uses it once and throws it away."""

    def __init__(
        self, engine: wasmtime.Engine, compiled: component.Component, resident: Callable[[], int | None]
    ) -> None:
        """`resident` tells the bytes this process holds: the component's own memory cannot be asked."""
        self._resident = resident
        self._engine = engine
        self._component = compiled
        self._run: Run | None = None
        self._linker = component.Linker(engine)
        self._linker.add_wasip2()
        with self._linker.root() as root, root.add_instance(_INTERFACE) as host:
            host.add_func("emit", self._emit)

    def _emit(self, _store: object, fd: int, text: str) -> None:
        if self._run is not None and fd in (STDOUT, STDERR):
            self._run.capture.write(fd, text.encode("utf-8", "replace"))

    def run(self, run: Run) -> Ending:
        """Run the script to its end, whatever that is; never raises for what the guest does."""
        before = self._resident()
        store = wasmtime.Store(self._engine)
        self._run = run
        try:
            ending = self._finish(run, store)
            after = self._resident()
            ending.memory = None if before is None or after is None else max(0, after - before)
            return ending
        finally:
            self._run = None
            store.close()

    def _finish(self, run: Run, store: wasmtime.Store) -> Ending:
        order = run.order
        try:
            store.set_limits(memory_size=order.memory, instances=200, tables=200, memories=20, table_elements=200_000)
            store.set_epoch_deadline(1)
            store.set_wasi(wasmtime.WasiConfig())
            instance = self._linker.instantiate(store, self._component)
            entry = instance.get_func(store, "run")
            if entry is None:
                return Ending("crashed", reason="the guest component has no entry point", trapped=True)
            outcome = entry(store, order.code, order.input, min(order.output, _VALUE_LIMIT))
            return reported(
                str(outcome.ending),
                value=str(outcome.value) if getattr(outcome, "has-value") else None,
                cut=bool(outcome.cut),
                exit_code=int(getattr(outcome, "exit-code")),
                reason=str(outcome.reason)[:1000],
                limit=order.output,
            )
        except OutputFull:
            return Ending("output_limit")
        except wasmtime.ExitTrap as left:
            return Ending("ok" if left.code == 0 else "error", exit_code=left.code)
        except wasmtime.WasmtimeError as failure:
            return trapped(str(failure))
