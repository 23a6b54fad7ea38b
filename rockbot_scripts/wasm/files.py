"""Where the compiled guests lie, and how it is known that nobody changed them.

A compiled guest is native code: loading a damaged or foreign file crashes or betrays the worker. So the files lie in
a directory that only we can write, a manifest names the digest of each, and nothing is loaded before its digest was
compared. This module needs neither wasmtime nor the build tools.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rockbot_scripts.errors import MissingExtra, SandboxUnavailable, UnsafeCache

FORMAT: Final = 1
FLAGS: Final = {"epoch_interruption": True}
"""What shapes the compiled code; part of the cache key and of the manifest."""

GUEST: Final = Path(__file__).parent / "guest"
COMPONENT: Final = "python.wasm"
PYTHON_AOT: Final = "python.cwasm"
JAVASCRIPT_AOT: Final = "javascript.cwasm"
MANIFEST: Final = "manifest.json"

QJS_PACKAGE: Final = "qjs-wasi-reactor.wasm"
QJS_SHA256: Final = "1a4e0bce82f2faed14f5e2620174e3daf33e161bad75ce955ceeaca1f7c82572"
BUILDER_PACKAGE: Final = "componentize-py"


def target() -> str:
    """Return the compilation target of this machine, for instance `x86_64-unknown-linux-gnu`."""
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return f"{machine}-unknown-linux-gnu"


def installed(package: str) -> str:
    """Return the version of an installed package; raises MissingExtra when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise MissingExtra(package) from None


def cache_root(configured: Path | None) -> Path:
    """Return the directory that holds all builds: the configured one, or the user's cache directory."""
    if configured is not None:
        return configured.expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:
        raise SandboxUnavailable(
            "no place to keep the sandbox files: this user has no home directory; set scripts.cache_dir"
        ) from None
    return home.absolute() / "rockbot" / "wasm"


def build_directory(root: Path) -> Path:
    """Return where the build for this wasmtime, this processor family and these guest sources lies."""
    parts = {
        "format": FORMAT,
        "wasmtime": installed("wasmtime"),
        "target": target(),
        "flags": FLAGS,
        "javascript": QJS_SHA256,
        "guest": {name: digest(GUEST / name) for name in ("app.py", "world.wit")},
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return root / f"{parts['wasmtime']}-{key}"


def check_private(directory: Path) -> None:
    """Raise UnsafeCache unless only we (or root) can write to an existing directory."""
    state = directory.stat()
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeCache(
            f"{directory} may be written by other users, and native code is loaded from it: "
            f"run chmod 700 on it, give it to this user, or set scripts.cache_dir to another place"
        )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a build, or None when there is none that can be used."""
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    files = manifest.get("files")
    wanted = {COMPONENT, PYTHON_AOT, JAVASCRIPT_AOT}
    if not isinstance(files, dict) or not wanted <= files.keys():
        return None
    return manifest


def write_manifest(directory: Path, builder: str, *, intact: Mapping[str, Any] | None = None) -> None:
    """Write down the digests of the files as they are now, replacing the old manifest at once.

    `intact` are the entries of files that were not written again: they stay as they were.
    """
    manifest = {
        "format": FORMAT,
        "wasmtime": installed("wasmtime"),
        "builder": builder,
        "target": target(),
        "flags": FLAGS,
        "files": {
            name: (intact or {}).get(name)
            or {"sha256": digest(directory / name), "bytes": (directory / name).stat().st_size}
            for name in (COMPONENT, PYTHON_AOT, JAVASCRIPT_AOT)
        },
    }
    fresh = directory / f"{MANIFEST}.new"
    fresh.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    fresh.replace(directory / MANIFEST)


def expected(manifest: dict[str, Any], name: str) -> str:
    """Return the digest that the manifest names for a file, an empty string when it names none."""
    entry = manifest["files"].get(name)
    return str(entry.get("sha256", "")) if isinstance(entry, dict) else ""


def damaged(directory: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the names of the files that are missing or differ from their digest in the manifest."""
    broken = []
    for name in (COMPONENT, PYTHON_AOT, JAVASCRIPT_AOT):
        try:
            same = digest(directory / name) == expected(manifest, name)
        except OSError:
            same = False
        if not same:
            broken.append(name)
    return broken
