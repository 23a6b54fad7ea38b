"""The bytes between supervisor and worker, from both honest and hostile sides."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_scripts.errors import FrameError
from rockbot_scripts.wasm import frames
from rockbot_scripts.wasm.runs import Order

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_messages = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), _json, max_size=5)


def _through_a_pipe(data: bytes) -> tuple[dict[str, object] | None, bytes]:
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
        os.close(writing)
        return frames.read_blocking(reading), os.read(reading, 1 << 16)
    finally:
        os.close(reading)


@given(_messages)
def test_what_is_written_is_read(message: dict[str, object]) -> None:
    assert _through_a_pipe(frames.encode(message) + b"rest") == (message, b"rest")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_an_end_or_a_frame_error(data: bytes) -> None:
    try:
        message, _ = _through_a_pipe(data)
    except FrameError:
        return
    assert isinstance(message, dict) if data else message is None


@given(_messages, st.data())
def test_a_frame_that_is_cut_is_never_taken_for_a_whole_one(message: dict[str, object], data: st.DataObject) -> None:
    whole = frames.encode(message)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(FrameError):
        _through_a_pipe(whole[:cut])


@given(st.integers(frames.MAX_FRAME_BYTES + 1, 2**32 - 1))
def test_a_length_above_the_limit_is_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(FrameError, match="limit"):
        frames.size(frames.HEADER.pack(length))


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b"\xff", b"{", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(body)


def test_text_that_is_no_unicode_is_written_all_the_same() -> None:
    assert frames.decode(frames.encode({"a": "\ud800"})[4:]) == {"a": "?"}


@given(st.dictionaries(st.sampled_from(["id", "language", "code", "input", "wall", "memory", "output"]), _json))
def test_a_malformed_order_is_told_apart_from_an_order(frame: dict[str, object]) -> None:
    try:
        order = Order.from_frame(frame)
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    assert isinstance(order.wall, float)
