"""What models read of results: every type, cut at the limit with an exact mark, nothing lost, every origin kept."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rockbot.events import FilePart, ImagePart, JsonPart, TextPart, origins_of
from rockbot.tools import File
from rockbot.tools.content import content_of, fitted, shorten
from rockbot_messaging.artifacts import MemoryArtifacts


class Found(BaseModel):
    name: str
    at: tuple[int, int] = (1, 2)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("text", TextPart(text="text")),
        ("", TextPart(text="")),
        (None, TextPart(text="done")),
        (5, JsonPart(data=5)),
        ({"a": [1]}, JsonPart(data={"a": [1]})),
        (["a", "b"], JsonPart(data=["a", "b"])),
        ([], JsonPart(data=[])),
        (Found(name="x"), JsonPart(data={"name": "x", "at": [1, 2]})),
        ([Found(name="x")], JsonPart(data=[{"name": "x", "at": [1, 2]}])),
        (TextPart(text="t", origin="web"), TextPart(text="t", origin="web")),
    ],
)
async def test_what_a_tool_returns_becomes_one_part(value: Any, part: Any) -> None:
    assert await content_of(value, MemoryArtifacts()) == (part,)


async def test_a_list_with_parts_or_files_is_its_items() -> None:
    artifacts = MemoryArtifacts()
    text, file, more = await content_of(["see:", File("a,b", media_type="text/csv", name="t.csv"), {"n": 1}], artifacts)
    assert (text, more) == (TextPart(text="see:"), JsonPart(data={"n": 1}))
    assert isinstance(file, FilePart)
    assert (file.name, file.media_type, file.size) == ("t.csv", "text/csv", 3)
    assert await artifacts.get(file.uri.removeprefix("artifact:")) == b"a,b"


async def test_bytes_and_large_images_become_files_and_small_images_stay() -> None:
    artifacts = MemoryArtifacts()
    (file,) = await content_of(b"\x00\xff", artifacts, tenant="acme")
    assert isinstance(file, FilePart)
    assert (file.media_type, file.size) == ("application/octet-stream", 2)
    assert list(artifacts.stored) == [("acme", file.sha256)]
    small = ImagePart(media_type="image/png", data=base64.b64encode(b"x").decode())
    assert await content_of(small, artifacts) == (small,)
    pixels = bytes(1 << 20)
    (large,) = await content_of(ImagePart(media_type="image/png", data=base64.b64encode(pixels).decode()), artifacts)
    assert isinstance(large, FilePart)
    assert (large.media_type, large.size) == ("image/png", len(pixels))


async def test_what_is_no_json_is_said_by_its_type() -> None:
    with pytest.raises(TypeError, match="returned a object that is no JSON"):
        await content_of(object(), MemoryArtifacts())


async def test_what_is_over_the_limit_is_cut_with_an_exact_mark_and_kept_whole() -> None:
    artifacts = MemoryArtifacts()
    whole = "".join(str(number % 10) for number in range(5000))
    text, file = await fitted((TextPart(text=whole),), 1000, artifacts, origin="tool:dig")
    assert isinstance(text, TextPart)
    assert isinstance(file, FilePart)
    assert len(text.text) <= 1000
    match = re.fullmatch(r"(.*)\n\[truncated, (\d+) chars omitted\]\n(.*)", text.text, re.DOTALL)
    assert match is not None
    head, omitted, tail = match[1], int(match[2]), match[3]
    assert len(head) + omitted + len(tail) == len(whole)
    assert (whole.startswith(head), whole.endswith(tail)) == (True, True)
    assert (await artifacts.get(file.uri.removeprefix("artifact:"))).decode() == whole
    assert (file.name, file.size, file.origin, text.origin) == ("result.txt", 5000, "tool:dig", "tool:dig")


async def test_long_json_is_kept_as_json_and_other_parts_stay() -> None:
    artifacts = MemoryArtifacts()
    image = ImagePart(media_type="image/png", url="https://example.org/x.png")
    data = {"rows": list(range(500))}
    _, file, other = await fitted((JsonPart(data=data), image), 300, artifacts, origin="web")
    assert isinstance(file, FilePart)
    assert (file.name, file.media_type) == ("result.json", "application/json")
    assert json.loads(await artifacts.get(file.uri.removeprefix("artifact:"))) == data
    assert other == image.model_copy(update={"origin": "web"})


async def test_no_origin_is_lost_when_parts_are_put_together() -> None:
    parts = (TextPart(text="a" * 300, origin="user"), TextPart(text="b" * 300, origin="web"), TextPart(text="c" * 300))
    for limit in (300, 3000):
        made = await fitted(parts, limit, MemoryArtifacts(), origin="tool:dig")
        assert origins_of(made) == {"user", "web", "tool:dig"}


@given(st.text(min_size=0, max_size=600), st.integers(200, 400))
def test_a_shortened_text_is_never_longer_and_counts_what_it_leaves_out(text: str, limit: int) -> None:
    cut = shorten(text, limit)
    assert len(cut) <= max(limit, 0)
    if len(text) <= limit:
        assert cut == text
    else:
        (omitted,) = re.findall(r"\n\[truncated, (\d+) chars omitted\]\n", cut)[-1:] or ["0"]
        assert len(cut) - len(f"\n[truncated, {omitted} chars omitted]\n") + int(omitted) == len(text)
