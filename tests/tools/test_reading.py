"""`read_artifact`: pages and searches what was stored, for its own tenant alone."""

from __future__ import annotations

import pytest

from rockbot.tools import ToolContext, ToolError
from rockbot.tools.context import ToolArtifacts
from rockbot.tools.reading import read_artifact
from rockbot_messaging.artifacts import MemoryArtifacts

TEXT = "".join(f"line {number}\n" for number in range(1, 1001))


@pytest.fixture
def artifacts() -> MemoryArtifacts:
    return MemoryArtifacts()


def context(artifacts: MemoryArtifacts, tenant: str = "acme") -> ToolContext:
    return ToolContext(artifacts=ToolArtifacts(artifacts, tenant), tenant=tenant)


async def stored(artifacts: MemoryArtifacts, data: bytes | str = TEXT) -> str:
    return (await ToolArtifacts(artifacts, "acme").put(data)).uri


async def test_pages_put_together_are_the_whole(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts)
    read, offset = "", 0
    while offset < len(TEXT):
        page = await read_artifact(uri, context(artifacts), offset=offset, limit=1000)
        head, _, text = page.partition("\n")
        assert head.startswith(f"[characters {offset} to {offset + len(text)} of {len(TEXT)}")
        assert head.endswith(
            "the end]" if offset + len(text) == len(TEXT) else f"go on at offset {offset + len(text)}]"
        )
        read, offset = read + text, offset + len(text)
    assert read == TEXT


async def test_grep_shows_lines_with_numbers_and_where_to_read_on(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts)
    found = await read_artifact(uri, context(artifacts), grep="LINE 99")
    lines = found.splitlines()
    assert lines[0] == f"99 (offset {TEXT.index('line 99')}): line 99"
    assert len(lines) == 1 + 10
    page = await read_artifact(uri, context(artifacts), offset=TEXT.index("line 990"), limit=8)
    assert page.endswith("line 990")


async def test_many_matches_go_on_at_an_offset(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts)
    first = (await read_artifact(uri, context(artifacts), grep="line")).splitlines()
    assert len(first) == 201
    assert first[-1] == f"[more lines match; go on at offset {TEXT.index('line 201')}]"
    second = await read_artifact(uri, context(artifacts), grep="line", offset=TEXT.index("line 201"))
    assert second.startswith("201 (")


async def test_a_long_line_is_shown_around_what_was_looked_for(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts, "x" * 5000 + "needle" + "y" * 5000)
    found = await read_artifact(uri, context(artifacts), grep="needle")
    assert "needle" in found
    assert len(found) < 600


async def test_nothing_found_and_nothing_there_are_said(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts)
    assert "no line" in await read_artifact(uri, context(artifacts), grep="absent")
    with pytest.raises(ToolError, match="behind the end: the text has 8893 characters"):
        await read_artifact(uri, context(artifacts), offset=99_999)
    with pytest.raises(ToolError, match="id is no artifact"):
        await read_artifact("the file", context(artifacts))
    with pytest.raises(ToolError, match=r"binary \(2 bytes\)"):
        await read_artifact(await stored(artifacts, b"\xff\xfe"), context(artifacts))


async def test_another_tenants_artifact_is_not_there(artifacts: MemoryArtifacts) -> None:
    uri = await stored(artifacts)
    with pytest.raises(ToolError, match="there is no such artifact"):
        await read_artifact(uri, context(artifacts, "other"))
