"""The built guests: private, verified, built once, mended when damaged."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from rockbot_scripts.contract import ScriptInvoke
from rockbot_scripts.errors import MissingExtra, UnsafeCache
from rockbot_scripts.settings import ScriptSettings
from rockbot_scripts.wasm import build, files
from rockbot_scripts.wasm.install import install
from rockbot_scripts.wasm.pool import WasmPool

pytestmark = pytest.mark.sandbox


@pytest.fixture
async def cache(tmp_path: Path) -> Path:
    """A cache of its own, filled from the user's."""
    built = Path((await install(None)).directory)
    root = tmp_path / "cache"
    root.mkdir(mode=0o700)
    shutil.copytree(built, root / built.name)
    return root


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 2000):
        data[at] ^= 0xFF
    path.write_bytes(data)


async def test_damaged_native_code_is_never_loaded_and_two_pools_mend_it_once(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = files.build_directory(cache)
    _damage(directory / files.PYTHON_AOT)
    caplog.set_level(logging.WARNING)
    pools = [WasmPool(ScriptSettings(workers=1, cache_dir=cache)) for _ in range(2)]
    await asyncio.gather(*(pool.start() for pool in pools))
    try:
        for pool in pools:
            assert (await pool.run(ScriptInvoke(language="python", code="6 * 7"))).value == "42"
    finally:
        await asyncio.gather(*(pool.close() for pool in pools))
    told = [record for record in caplog.records if "does not match its digest" in record.getMessage()]
    assert len(told) == 1, "the build was mended by one of the two only"
    assert str(directory / files.PYTHON_AOT) in told[0].getMessage()
    manifest = files.read_manifest(directory)
    assert manifest is not None
    assert files.damaged(directory, manifest) == []


async def test_a_file_damaged_while_the_pool_runs_is_mended_before_the_next_worker_loads_it(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = WasmPool(ScriptSettings(workers=1, recycle_after=1, cache_dir=cache))
    await pool.start()
    try:
        fresh = files.build_directory(cache) / "damaged"
        target = files.build_directory(cache) / files.JAVASCRIPT_AOT
        intact = (files.build_directory(cache) / files.PYTHON_AOT).stat().st_ino
        shutil.copy(target, fresh)
        _damage(fresh)
        fresh.replace(target)
        for _ in range(2):
            assert (await pool.run(ScriptInvoke(language="javascript", code="6 * 7"))).value == "42"
    finally:
        await pool.close()
    assert (files.build_directory(cache) / files.PYTHON_AOT).stat().st_ino == intact, (
        "only what is damaged is built again"
    )
    assert any("does not match its digest" in record.getMessage() for record in caplog.records)


async def test_a_cache_that_others_can_write_is_refused(cache: Path) -> None:
    files.build_directory(cache).chmod(0o777)
    with pytest.raises(UnsafeCache, match="chmod 700"):
        await install(cache)


async def test_a_build_that_is_intact_is_taken_as_it_is(cache: Path) -> None:
    answer = await asyncio.to_thread(build.ensure, cache)
    assert answer == {"directory": str(files.build_directory(cache)), "built": False, "warnings": []}


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(MissingExtra, match=r"'no-such-package'.*pip install 'rockbot\[wasm\]'"):
        files.installed("no-such-package")


def test_a_manifest_that_is_no_manifest_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"format": 1, "files": {}}', '{"format": 99}'):
        (tmp_path / files.MANIFEST).write_text(text)
        assert files.read_manifest(tmp_path) is None


def test_the_javascript_engine_is_the_pinned_one() -> None:
    assert build.javascript_engine().startswith(b"\0asm")
