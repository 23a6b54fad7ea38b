"""Artifacts in a folder that every process can reach: a disk of the machine, or a volume mounted by all.

A file is named by its digest alone, so nothing that a message says becomes a path. It appears whole or not at all: it is
written beside its place, synchronised, and moved there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final, final

from rockbot_messaging.artifacts import ArtifactMissing, ArtifactsUnavailable, Reference
from rockbot_messaging.identity import DEFAULT_TENANT
from rockbot_messaging.topics import escape_word

__all__ = ["FolderArtifacts"]

#: Readable by the owner and the group of the folder, as far as the process's umask lets.
_MODE: Final = 0o640


@final
class FolderArtifacts:
    """An `ArtifactStore` in `folder`, which is made when the first artifact is stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, body: bytes, *, tenant: str = DEFAULT_TENANT) -> str:
        """See `ArtifactStore.put`. A copy that lies there damaged is replaced."""
        return await asyncio.to_thread(self._put, body, tenant)

    async def get(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> bytes:
        """See `ArtifactStore.get`."""
        wanted = Reference.parse(reference)
        return await asyncio.to_thread(self._get, wanted, tenant)

    async def sweep(self, *, before_ms: int) -> int:
        """Remove what was last stored before this instant (epoch milliseconds); returns how many artifacts that were.

        Raises:
            ArtifactsUnavailable: the folder cannot be read or written.
        """
        return await asyncio.to_thread(self._sweep, before_ms)

    def _sweep(self, before_ms: int) -> int:
        swept = 0
        try:
            for path in self._folder.glob("*/??/*"):
                with contextlib.suppress(FileNotFoundError):  # another process sweeps, too
                    if path.stat().st_mtime * 1000 < before_ms:
                        path.unlink()
                        swept += 1
        except OSError as exc:
            raise ArtifactsUnavailable(f"{self._folder} cannot be swept: {exc.strerror or exc}") from exc
        return swept

    def _path(self, reference: Reference, tenant: str) -> Path:
        return self._folder / escape_word(tenant) / reference.digest[:2] / reference.digest

    def _put(self, body: bytes, tenant: str) -> str:
        reference = Reference.of(body)
        path = self._path(reference, tenant)
        try:
            if _holds(path, body):
                os.utime(path)  # a sweep goes by when it was last stored
            else:
                made = _make(path.parent)
                _write(path, body)
                for folder in {path.parent, *made}:
                    _sync_folder(folder)
        except OSError as exc:
            raise ArtifactsUnavailable(
                f"an artifact of {len(body)} bytes cannot be written to {self._folder}: {exc.strerror or exc}"
            ) from exc
        return str(reference)

    def _get(self, reference: Reference, tenant: str) -> bytes:
        try:
            body = self._path(reference, tenant).read_bytes()
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise ArtifactsUnavailable(
                    f"the folder of artifacts {self._folder} does not exist: is its volume mounted?"
                ) from None
            raise ArtifactMissing(f"no artifact {reference} lies in {self._folder}") from None
        except OSError as exc:
            raise ArtifactsUnavailable(
                f"the artifact {reference} in {self._folder} cannot be read: {exc.strerror or exc}"
            ) from exc
        if not reference.describes(body):
            raise ArtifactMissing(
                f"the artifact {reference} in {self._folder} is damaged: its {len(body)} bytes are others"
            )
        return body


def _holds(path: Path, body: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size == len(body) and path.read_bytes() == body
    return False


def _make(folder: Path) -> set[Path]:
    """Create a folder and those above it; returns the folders that got a new entry."""
    changed = set()
    for step in (*reversed(folder.parents), folder):
        if not step.is_dir():
            step.mkdir(exist_ok=True)
            changed.add(step.parent)
    return changed


def _write(path: Path, body: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, opened with its mode
            file.write(body)
            file.flush()
            os.fsync(handle)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
