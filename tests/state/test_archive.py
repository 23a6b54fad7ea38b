"""An archive gives back what was written into it, and knows when anything of it is missing or changed."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state.calls import CALLS, answers_to

from rockbot.state.desk.archive import ArchiveError, Tally, item_line, read_line
from rockbot.state.desk.moving import MoveRefused, export, load, unfinished, verify
from rockbot.state.items import (
    AmountItem,
    HandledItem,
    NumberItem,
    RecordItem,
    ReservationItem,
    RowItem,
    SnapshotItem,
    StreamItem,
    TimerItem,
    ValueItem,
)
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import OutboxRow, Record, Snapshot, Timer
from rockbot_messaging.testing import FakeClock

TEXT = st.text(max_size=5)
BYTES = st.binary(max_size=5)
WHOLE = st.integers(0, 2**53)
ITEMS = st.one_of(
    st.builds(NumberItem, WHOLE),
    st.builds(ValueItem, TEXT, BYTES, WHOLE, st.none() | WHOLE),
    st.builds(StreamItem, TEXT),
    st.builds(RecordItem, TEXT, st.builds(Record, WHOLE, BYTES, WHOLE)),
    st.builds(HandledItem, TEXT, TEXT),
    st.builds(SnapshotItem, TEXT, st.builds(Snapshot, WHOLE, BYTES)),
    st.builds(
        RowItem,
        st.builds(OutboxRow, id=TEXT, cause=TEXT, message=BYTES, door=TEXT, address=TEXT, awaits_answer=st.booleans()),
        st.none() | TEXT,
        WHOLE,
        WHOLE,
        WHOLE,
    ),
    st.builds(TimerItem, st.builds(Timer, TEXT, WHOLE, BYTES)),
    st.builds(AmountItem, TEXT, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(ReservationItem, TEXT, TEXT, st.floats(allow_nan=False, allow_infinity=False), WHOLE, st.booleans()),
)


@given(ITEMS)
def test_an_item_comes_back_from_its_line(item):
    line = item_line(item)
    assert line.count(b"\n") == 1
    assert read_line(line, 1) == item


@given(st.lists(ITEMS, max_size=6), st.randoms(use_true_random=False))
def test_a_tally_does_not_depend_on_order_and_sees_every_change(items, random):
    def tally(of):
        found = Tally()
        for item in of:
            found.add(item)
        return found

    shuffled = random.sample(items, len(items))
    assert tally(items).differences(tally(shuffled)) == []
    counted = [item for item in items if not isinstance(item, NumberItem)]
    if counted:
        assert tally(items).differences(tally([item for item in items if item is not counted[0]])) != []
        assert tally(items).differences(tally([*items, counted[0]])) != []


@given(CALLS)
def test_whatever_a_store_holds_is_the_same_behind_an_archive(calls):
    async def both():
        clock = FakeClock()
        store, other = MemoryStateStore(clock), MemoryStateStore(clock)

        class Open:
            def __getattr__(self, name):
                return getattr(store, name)

            async def close(self):
                pass

        await answers_to(Open(), clock, calls)
        await other.open()
        written = io.BytesIO()
        await export(store, written, release="1")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x"
            path.write_bytes(written.getvalue())
            await load(other, path)
        again = io.BytesIO()
        await export(other, again, release="1")
        # All but the header and the counter, which the copy has raised; so the last line is another one, too.
        assert again.getvalue().splitlines()[2:-1] == written.getvalue().splitlines()[2:-1]

    asyncio.run(both())


@pytest.fixture
async def stores(clock):
    found = MemoryStateStore(clock), MemoryStateStore(clock)
    for store in found:
        await store.open()
    return found


@pytest.fixture
async def path(stores, tmp_path):
    for name in "abc":
        await stores[0].put(key("acme", "thing", name), name.encode())
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        await export(stores[0], file, release="1.2.3")
    return path


async def test_an_archive_says_what_wrote_it_and_what_is_in_it(path):
    first, *_, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["rockbot_state"], first["release"], first["server"]) == (1, "1.2.3", "memory")
    assert (last["end"], last["counts"]) == (True, {"value": 3})
    assert verify(path).counts == {"value": 3}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-300], "not JSON|cut off"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "cut off"),
        (lambda text: text.replace('"acme/thing/b"', '"acme/thing/x"'), "damaged"),
        (lambda text: text + "more\n", "more behind"),
        (lambda text: "\n".join(line for at, line in enumerate(text.splitlines()) if at != 2), "damaged"),
        (lambda text: text.replace('"kind":"value"', '"kind":"colour"'), "line 3 .* no item"),
        (lambda text: text.replace('"rockbot_state":1', '"rockbot_state":99'), "newer one"),
        (lambda _: "{}\n", "no archive"),
        (lambda _: "", "no archive|not JSON"),
    ],
)
async def test_a_damaged_archive_is_told_and_nothing_of_it_is_used(path, stores, damage, says):
    path.write_text(damage(path.read_text()))
    with pytest.raises(ArchiveError, match=says):
        await load(stores[1], path)
    assert not any((await stores[1].census()).counts.values())
    assert not await unfinished(stores[1])


async def test_a_store_that_is_not_empty_takes_an_archive_only_when_told(path, stores):
    _, other = stores
    await other.put(key("acme", "thing", "b"), b"mine")
    await other.put(key("acme", "thing", "z"), b"mine")
    with pytest.raises(MoveRefused, match="not empty"):
        await load(other, path)
    assert (await other.get(key("acme", "thing", "b"))).value == b"mine"
    await load(other, path, merge=True)
    values = [(await other.get(key("acme", "thing", name))).value for name in "abcz"]
    assert values == [b"a", b"b", b"c", b"mine"]
    assert not await unfinished(other)
