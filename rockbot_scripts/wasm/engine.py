"""One place that decides how guest code is compiled and loaded, so that builder and worker cannot disagree.

The compiled files (AOT) hold native code for the baseline of a processor family: what one machine built, another of
the same family loads.
"""

from __future__ import annotations

import wasmtime

from rockbot_scripts.wasm.files import FLAGS, target


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.epoch_interruption = FLAGS["epoch_interruption"]
    return config


def compiling_engine() -> wasmtime.Engine:
    """Return an engine that compiles for the baseline of this processor family."""
    config = _config()
    config.target = target()
    return wasmtime.Engine(config)


def running_engine() -> wasmtime.Engine:
    """Return an engine that loads what `compiling_engine` made."""
    return wasmtime.Engine(_config())
