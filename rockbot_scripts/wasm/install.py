"""Makes the built guests available to the pool: finds an intact build, or has one made in a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from rockbot_scripts import errors
from rockbot_scripts.contract import Language
from rockbot_scripts.wasm import files

log = logging.getLogger(__name__)

_KNOWN: Final = {
    error.__name__: error for error in (errors.SandboxBuildFailed, errors.UnsafeCache, errors.SandboxUnavailable)
}


@final
@dataclass(frozen=True)
class Installation:
    """A build that was intact when it was looked at: its directory, the digests to expect, the engines by name."""

    directory: str
    digests: Mapping[str, str]
    engines: Mapping[Language, str]


async def install(cache_dir: Path | None) -> Installation:
    """Return an intact build, made now if there is none.

    Raises MissingExtra, UnsafeCache or SandboxBuildFailed; the text says what to do.
    """
    files.installed("wasmtime")
    root = files.cache_root(cache_dir)
    directory = files.build_directory(root)
    if await asyncio.to_thread(files.read_manifest, directory) is None:
        log.info("building the sandbox under %s, once; this takes about 20 s", root)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "rockbot_scripts.wasm.build", str(root),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath},
        cwd="/",
    )  # fmt: skip
    try:
        said, complaint = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    try:
        answer = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        text = complaint.decode("utf-8", "replace").strip()[-1000:]
        raise errors.SandboxBuildFailed(f"the sandbox build ended with code {process.returncode}: {text}") from None
    if "error" in answer:
        raise _raised(str(answer["error"]), str(answer["message"]))
    for warning in answer["warnings"]:
        log.warning("%s", warning)
    manifest = await asyncio.to_thread(files.read_manifest, directory)
    if manifest is None:
        raise errors.SandboxBuildFailed(f"the manifest in {directory} vanished after the build; try again")
    wasmtime = files.installed("wasmtime")
    component = files.expected(manifest, files.COMPONENT)[:12]
    return Installation(
        directory=str(directory),
        digests={name: files.expected(manifest, name) for name in (files.PYTHON_AOT, files.JAVASCRIPT_AOT)},
        engines={
            "python": f"cpython 3.14 (component {component}) on wasmtime {wasmtime}",
            "javascript": f"quickjs-ng 0.17 ({files.QJS_SHA256[:12]}) on wasmtime {wasmtime}",
        },
    )


def _raised(name: str, message: str) -> errors.ScriptServiceError:
    if name == errors.MissingExtra.__name__:
        missing = errors.MissingExtra("")
        missing.args = (message,)
        return missing
    return _KNOWN.get(name, errors.SandboxUnavailable)(message)
