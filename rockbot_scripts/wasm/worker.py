"""A worker process: loads both guests, locks itself, and then runs one script after the other.

`python -I -m rockbot_scripts.wasm.worker CONFIG` with an empty environment, in its own session. Requests come in as
frames on standard input, answers leave on standard output. The end of standard input is the end of the worker.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import wasmtime
from wasmtime import component

from rockbot_scripts.errors import FrameError
from rockbot_scripts.wasm import engine as engines
from rockbot_scripts.wasm import files, frames, lock
from rockbot_scripts.wasm.javascript_guest import JavaScriptGuest
from rockbot_scripts.wasm.python_guest import PythonGuest
from rockbot_scripts.wasm.runs import Ending, Order, Run
from rockbot_scripts.wasm.watchdog import Watchdog

_MIB = 1024 * 1024
# The engine starts threads when a guest sleeps for the first time. The guest's own `sleep` does not when it was kept from
# running until its time was over, as on a busy machine; what is below it always does.
NAPS = "import time, json, re, sys\ntime.sleep.__globals__['_sleep'](0.002)\ntime.sleep(0.002)\n"
_WARM_UP = (
    ("python", NAPS + "print(json.dumps([1]))\nprint(2, file=sys.stderr)\n3"),
    ("python", "1/0"),
    ("javascript", "console.log(1); await new Promise(done => setTimeout(done, 1)); ({a: [2]})"),
    ("javascript", "null.x"),
)


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@final
class Worker:
    """The guests of this process and the run under way."""

    def __init__(self, engine: wasmtime.Engine, python: PythonGuest, javascript: JavaScriptGuest, out: int) -> None:
        self._guests: dict[str, Callable[[Run], Ending]] = {"python": python.run, "javascript": javascript.run}
        self._out = out
        self._run: Run | None = None
        self._watchdog = Watchdog(engine.increment_epoch, self._give_up)

    def execute(self, order: Order) -> dict[str, Any]:
        """Run one script and return the answer frame."""
        run = Run(order)
        self._run = run
        self._watchdog.arm(order.wall)
        try:
            ending = self._guests[order.language](run)
        except Exception as failure:
            # A defect of ours in a host function: the guest's state is unknown, and so is this worker's.
            ending = Ending(
                "crashed", reason=f"host function failed: {type(failure).__name__}: {failure}", trapped=True
            )
        finally:
            self._watchdog.disarm()
        return run.frame(ending, leaving=ending.trapped)

    def _give_up(self) -> None:
        """Called on the watchdog's thread when the guest sits in a call that nothing can interrupt."""
        if self._run is not None:
            frames.write_blocking(self._out, self._run.frame(Ending("timeout"), leaving=True))
        os._exit(0)

    def serve(self, inlet: int) -> None:
        """Answer requests until the supervisor closes the pipe, or a run leaves this worker unfit for another."""
        while True:
            request = frames.read_blocking(inlet)
            if request is None:
                return
            if request.get("op") == "probe":
                frames.write_blocking(self._out, {"op": "probed", "calls": lock.probe()})
                continue
            try:
                order = Order.from_frame(request)
                known = order.language in self._guests
            except (KeyError, TypeError, ValueError, OverflowError) as failure:
                raise FrameError(f"malformed request: {type(failure).__name__}") from None
            if not known:
                raise FrameError(f"unknown language {order.language!r}")
            frames.write_blocking(self._out, {"op": "started", "id": order.id})
            answer = self.execute(order)
            frames.write_blocking(self._out, answer)
            if answer["leaving"]:
                return


def _verified(directory: Path, name: str, digest: str) -> str:
    """Return a path to the very file whose digest was compared, however often its name is replaced meanwhile."""
    try:
        handle = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise _Refused("digest", f"{directory / name}: {failure.strerror}") from None
    path = f"/proc/self/fd/{handle}"
    if not digest or files.digest(Path(path)) != digest:
        raise _Refused("digest", f"{directory / name} does not match its digest")
    return path


def _resident() -> Callable[[], int | None]:
    try:
        handle = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return lambda: None
    page = resource.getpagesize()

    def ask() -> int | None:
        try:
            return int(os.pread(handle, 256, 0).split()[1]) * page
        except (OSError, ValueError, IndexError):
            return None

    return ask


def _prepare(config: dict[str, Any], out: int) -> tuple[Worker, lock.LockReport]:
    directory = Path(config["directory"])
    engine = engines.running_engine()
    python_path = _verified(directory, files.PYTHON_AOT, str(config["digests"][files.PYTHON_AOT]))
    javascript_path = _verified(directory, files.JAVASCRIPT_AOT, str(config["digests"][files.JAVASCRIPT_AOT]))
    try:
        python = component.Component.deserialize_file(engine, python_path)
        javascript = wasmtime.Module.deserialize_file(engine, javascript_path)
    except wasmtime.WasmtimeError as failure:
        raise _Refused("engine", f"wasmtime refuses the compiled guests: {failure}") from None
    for path in (python_path, javascript_path):
        os.close(int(path.rsplit("/", 1)[1]))
    resident = _resident()
    report = lock.LockReport()
    lock.limit_resources(data_bytes=1024 * _MIB + 3 * int(config["max_memory"]))
    lock.restrict(report)
    # Everything that starts threads or loads code late does so here, before system calls are filtered.
    worker = Worker(engine, PythonGuest(engine, python, resident), JavaScriptGuest(engine, javascript), out)
    _warm(worker)
    lock.filter_calls(report)
    _warm(worker)
    if report.missing and config["strict"]:
        raise _Refused("lock", ", ".join(report.missing))
    gc.collect()
    gc.freeze()
    return worker, report


def _warm(worker: Worker) -> None:
    for language, code in _WARM_UP:
        answer = worker.execute(Order(0, language, code, "", 10.0, 256 * _MIB, _MIB))
        if answer["status"] not in ("ok", "error"):
            raise _Refused("engine", f"a trial run of {language} ended as {answer['status']}: {answer['reason']}")


def main() -> None:
    """Prepare, lock, say ready, serve. Leaves by os._exit: the engine's threads must not outlive the interpreter."""
    config = json.loads(sys.argv[1])
    lock.die_with(int(config["parent"]))
    inlet, outlet = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    code = 0
    try:
        worker, report = _prepare(config, outlet)
        frames.write_blocking(outlet, {"op": "ready", "lock": asdict(report)})
        worker.serve(inlet)
    except _Refused as refusal:
        frames.write_blocking(outlet, {"op": "refused", "reason": refusal.reason, "detail": str(refusal)})
        code = 3
    except FrameError as failure:
        os.write(2, f"{failure}\n".encode())
        code = 4
    except BrokenPipeError:
        code = 5
    os._exit(code)


if __name__ == "__main__":
    main()
