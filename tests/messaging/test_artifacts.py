"""Artifact stores: content-addressed, durable, apart for each tenant."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rockbot.state.artifacts import OwnStateArtifacts, StateArtifacts
from rockbot.state.memory import MemoryStateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.artifacts import ArtifactMissing, ArtifactStore, ArtifactsUnavailable, MemoryArtifacts, Reference
from rockbot_messaging.artifacts_folder import FolderArtifacts
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.testing import FakeClock

_NOTHING = str(Reference.of(b"nobody stored this"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "folder", "state in memory", "state in a file"])
async def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    match request.param:
        case "memory":
            yield MemoryArtifacts()
        case "folder":
            folder = tmp_path / "artifacts"
            folder.mkdir()
            yield FolderArtifacts(folder)
        case kind:
            clock = SystemClock()
            store = MemoryStateStore(clock) if kind.endswith("memory") else SqliteStateStore(tmp_path / "s.db", clock)
            await store.open()
            yield StateArtifacts(store)
            await store.close()


@pytest.mark.parametrize("body", [b"", b"\x00\xff", bytes(range(256)) * 8192], ids=["empty", "bytes", "2 MiB"])
async def test_what_was_stored_is_read_back_by_its_reference(artifacts: ArtifactStore, body: bytes) -> None:
    reference = await artifacts.put(body)
    assert reference == str(Reference.of(body))
    assert await artifacts.get(reference) == body


async def test_storing_the_same_again_is_harmless_also_at_the_same_time(artifacts: ArtifactStore) -> None:
    references = await asyncio.gather(*(artifacts.put(b"the same bytes" * 1000) for _ in range(10)))
    assert len(set(references)) == 1
    assert await artifacts.get(references[0]) == b"the same bytes" * 1000


async def test_what_nobody_stored_is_missing_by_its_digest(artifacts: ArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match=Reference.of(b"nobody stored this").digest):
        await artifacts.get(_NOTHING)


async def test_one_tenants_artifact_is_nothing_to_another(artifacts: ArtifactStore) -> None:
    reference = await artifacts.put(b"secret", tenant="acme")
    assert await artifacts.get(reference, tenant="acme") == b"secret"
    for other in ("default", "umbrella", "../acme"):
        with pytest.raises(ArtifactMissing):
            await artifacts.get(reference, tenant=other)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256:../../etc/passwd;1", "sha256:" + "g" * 64 + ";1", "sha256:" + "A" * 64 + ";1", "md5:1;1"],
)
async def test_what_is_no_reference_leads_nowhere(artifacts: ArtifactStore, text: str) -> None:
    with pytest.raises(ValueError, match="no reference"):
        await artifacts.get(text)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_folder_names_its_files_by_digest_alone_and_leaves_nothing_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    artifacts = FolderArtifacts(folder)
    await artifacts.put(b"content", tenant="../../evil")
    (file,) = _files(tmp_path)
    assert file.name == Reference.of(b"content").digest
    assert folder in file.parents


async def test_a_damaged_file_is_missing_and_storing_it_again_mends_it(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    reference = await artifacts.put(b"content")
    (file,) = _files(tmp_path)
    file.write_bytes(b"CONTENT")
    with pytest.raises(ArtifactMissing, match="damaged"):
        await artifacts.get(reference)
    assert await artifacts.put(b"content") == reference
    assert await artifacts.get(reference) == b"content"


async def test_a_folder_that_is_not_mounted_is_away_and_nothing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactsUnavailable, match="mounted"):
        await FolderArtifacts(tmp_path / "volume").get(_NOTHING)


async def test_a_folder_that_cannot_be_written_says_so_and_where(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(ArtifactsUnavailable, match=str(occupied)):
        await FolderArtifacts(occupied).put(b"content")


async def test_a_store_that_is_closed_is_away(tmp_path: Path) -> None:
    store = SqliteStateStore(tmp_path / "s.db", SystemClock())
    await store.open()
    artifacts = StateArtifacts(store)
    reference = await artifacts.put(b"content")
    await store.close()
    with pytest.raises(ArtifactsUnavailable):
        await artifacts.get(reference)
    with pytest.raises(ArtifactsUnavailable):
        await artifacts.put(b"other")


async def test_a_process_without_an_open_store_opens_its_own_when_it_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    artifacts = OwnStateArtifacts(SqliteStateStore(path, SystemClock()))
    assert not path.exists()
    reference = await artifacts.put(b"content")
    assert path.exists()
    await artifacts.close()
    await artifacts.close()
    again = OwnStateArtifacts(SqliteStateStore(path, SystemClock()))
    assert await again.get(reference) == b"content"
    await again.close()


async def test_a_store_of_ones_own_that_cannot_be_opened_is_away(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("this is no folder")
    artifacts = OwnStateArtifacts(SqliteStateStore(occupied / "s.db", SystemClock()))
    with pytest.raises(ArtifactsUnavailable):
        await artifacts.get(_NOTHING)


async def test_artifacts_of_a_state_store_end_keep_days_after_they_were_last_stored(clock: FakeClock) -> None:
    store = MemoryStateStore(clock)
    await store.open()
    short, long = StateArtifacts(store, keep_days=2), StateArtifacts(store)
    reference = await short.put(b"a long result")
    clock.advance(86_400)
    await short.put(b"a long result")
    clock.advance(1.5 * 86_400)
    assert await short.get(reference) == b"a long result"
    clock.advance(86_400)
    with pytest.raises(ArtifactMissing):
        await short.get(reference)
    await short.put(b"a long result")
    await long.put(b"a long result")
    clock.advance(30 * 86_400)
    assert await short.get(reference) == b"a long result"


async def test_a_folder_is_swept_of_what_was_last_stored_too_long_ago(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    old, renewed, new = [await artifacts.put(text, tenant="acme") for text in (b"old", b"renewed", b"new")]
    for path in _files(tmp_path):
        if path.read_bytes() != b"new":
            os.utime(path, (1000, 1000))
    await artifacts.put(b"renewed", tenant="acme")
    assert await artifacts.sweep(before_ms=2_000_000) == 1
    assert await artifacts.sweep(before_ms=2_000_000) == 0
    assert [await artifacts.get(item, tenant="acme") for item in (renewed, new)] == [b"renewed", b"new"]
    with pytest.raises(ArtifactMissing):
        await artifacts.get(old, tenant="acme")
