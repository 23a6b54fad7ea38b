"""Builds the guests into the cache, once per wasmtime version, processor family and guest source.

Run as a process of its own (`python -m rockbot_scripts.wasm.build DIRECTORY`): compiling takes some seconds and
several hundred megabytes, which the service must not keep. A lock file makes a second process wait for the first;
it then finds the finished build. The result is one JSON line on standard output.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from rockbot_scripts.errors import MissingExtra, SandboxBuildFailed, ScriptServiceError
from rockbot_scripts.wasm import files

_COMPONENTIZE = "import sys, componentize_py; sys.argv[0] = 'componentize-py'; sys.exit(componentize_py.script())"


def ensure(root: Path) -> dict[str, Any]:
    """Make sure that an intact build lies under `root`, and return `{directory, built, warnings}`.

    Raises MissingExtra, UnsafeCache or SandboxBuildFailed; the text says what to do.
    """
    directory = files.build_directory(root)
    if _intact(directory):
        return {"directory": str(directory), "built": False, "warnings": []}
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.check_private(root)
        with _lock(root):
            return _repair(root, directory)
    except OSError as failure:
        raise SandboxBuildFailed(
            f"the sandbox files cannot be built under {root}: {failure.strerror or failure}; "
            "make it writable or set scripts.cache_dir"
        ) from failure


def _intact(directory: Path) -> bool:
    manifest = files.read_manifest(directory)
    if manifest is None or files.damaged(directory, manifest):
        return False
    files.check_private(directory)
    return True


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    with (root / "build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _repair(root: Path, directory: Path) -> dict[str, Any]:
    """Build what is missing or damaged; called with the lock held, so another process may have done it."""
    if _intact(directory):
        return {"directory": str(directory), "built": False, "warnings": []}
    warnings = []
    manifest = files.read_manifest(directory)
    broken = files.damaged(directory, manifest) if manifest is not None else []
    if manifest is not None and files.COMPONENT not in broken:
        warnings = [
            f"{directory / name} does not match its digest; it was not loaded and is built again" for name in broken
        ]
        files.check_private(directory)
        _compile(directory, broken)
        intact = {name: entry for name, entry in manifest["files"].items() if name not in broken}
        files.write_manifest(directory, str(manifest.get("builder", "")), intact=intact)
        return {"directory": str(directory), "built": True, "warnings": warnings}
    if directory.exists():
        warnings = [f"{directory} is damaged or incomplete; it was not loaded and is built again"]
    for remains in root.glob(".new-*"):  # of a build that was killed: the lock is ours, so nobody works on it
        shutil.rmtree(remains, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        _componentize(scratch)
        _compile(scratch, (files.PYTHON_AOT, files.JAVASCRIPT_AOT))
        files.write_manifest(scratch, metadata.version(files.BUILDER_PACKAGE))
        if directory.exists():
            shutil.rmtree(directory)
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"directory": str(directory), "built": True, "warnings": warnings}


def _componentize(directory: Path) -> None:
    """Make the CPython component out of our guest program."""
    files.installed(files.BUILDER_PACKAGE)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        source = Path(folder)
        shutil.copy(files.GUEST / "app.py", source / "app.py")
        shutil.copy(files.GUEST / "world.wit", source / "world.wit")
        command = [sys.executable, "-I", "-c", _COMPONENTIZE]
        command += ["-d", str(source / "world.wit"), "-w", "runner"]
        command += ["componentize", "app", "-p", folder, "-o", str(directory / files.COMPONENT)]
        done = subprocess.run(  # noqa: S603 - our own command, no shell
            command, capture_output=True, text=True, check=False, cwd=folder, env={"PATH": os.defpath}
        )
    if done.returncode != 0 or not (directory / files.COMPONENT).exists():
        raise SandboxBuildFailed(f"componentize-py failed with code {done.returncode}: {done.stderr[-1000:].strip()}")


def _compile(directory: Path, wanted: Collection[str]) -> None:
    """Compile the guests whose files are wanted ahead of time, each file replaced at once."""
    try:
        import wasmtime
        from wasmtime import component

        from rockbot_scripts.wasm import engine
    except ImportError as failure:
        raise MissingExtra("wasmtime") from failure
    compiler = engine.compiling_engine()
    if files.PYTHON_AOT in wanted:
        python = component.Component.from_file(compiler, str(directory / files.COMPONENT))
        _replace(directory / files.PYTHON_AOT, python.serialize())
    if files.JAVASCRIPT_AOT in wanted:
        javascript = wasmtime.Module(compiler, javascript_engine())
        _replace(directory / files.JAVASCRIPT_AOT, javascript.serialize())


def javascript_engine() -> bytes:
    """Return the JavaScript engine out of its package, checked against the pinned digest."""
    files.installed(files.QJS_PACKAGE)
    for entry in metadata.files(files.QJS_PACKAGE) or ():
        if entry.name.endswith(".wasm"):
            data = Path(str(entry.locate())).read_bytes()
            found = hashlib.sha256(data).hexdigest()
            if found != files.QJS_SHA256:
                raise SandboxBuildFailed(
                    f"{entry.name} has the digest {found}, expected {files.QJS_SHA256}: "
                    "install the pinned version with pip install --force-reinstall 'rockbot[wasm]'"
                )
            return data
    raise MissingExtra(files.QJS_PACKAGE)


def _replace(path: Path, data: bytes | bytearray) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    fresh.replace(path)


def main() -> int:
    """Build under the directory given as the only argument (default: the user's cache); the answer is one JSON line."""
    os.umask(0o077)
    try:
        answer = ensure(Path(sys.argv[1]) if len(sys.argv) > 1 else files.cache_root(None))
    except ScriptServiceError as failure:
        answer = {"error": type(failure).__name__, "message": str(failure)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
