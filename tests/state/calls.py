"""Any calls of a store, and what it answers to them."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from rockbot.state.keys import key, prefix
from rockbot.state.ports import ANY, Append, Commit, IndexRow, Lease, OutboxRow, Timer, VersionConflict, Write

NAMES = st.sampled_from(["a", "a/b", "ab", "b"])
KEYS = NAMES.map(lambda name: key("acme", "thing", name))
IDS = st.sampled_from(["1", "2", "3", "4"])
SMALL = st.integers(0, 6)
EXPECT = st.just(ANY) | SMALL
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 30.0])
ROWS = st.builds(OutboxRow, id=IDS, cause=IDS, message=st.just(b"x"), door=st.just("d"), awaits_answer=st.booleans())
STEPS = st.builds(
    Append,
    stream=KEYS,
    expected_version=st.integers(0, 2),
    records=st.lists(st.binary(max_size=3), min_size=1, max_size=2).map(tuple),
    handled=IDS,
    snapshot=st.none() | st.binary(max_size=3),
    outbox=st.lists(ROWS, max_size=2).map(tuple),
    answered=st.lists(IDS, max_size=1).map(tuple),
    timers=st.lists(st.builds(Timer, IDS, SMALL, st.binary(max_size=1)), max_size=2).map(tuple),
    canceled_timers=st.lists(IDS, max_size=1).map(tuple),
    index=st.lists(st.builds(IndexRow, KEYS, st.none() | st.binary(max_size=2)), max_size=2).map(tuple),
).map(
    lambda step: dataclasses.replace(
        step, outbox=tuple(dataclasses.replace(row, cause=step.handled) for row in step.outbox)
    )
)
WRITES = st.lists(
    st.builds(Write, key=KEYS, value=st.none() | st.binary(max_size=3), expect=EXPECT, ttl=st.none() | SECONDS),
    max_size=2,
    unique_by=lambda write: write.key,
).map(tuple)
MARKS = IDS.map(lambda cause: key("acme", "handled", cause))
COMMITS = IDS.flatmap(
    lambda cause: st.builds(
        Commit,
        mark=MARKS,
        remember=st.sampled_from([0.5, 1.0, 30.0]),
        cause=st.just(cause),
        writes=WRITES,
        outbox=st.lists(ROWS.map(lambda row: dataclasses.replace(row, cause=cause)), max_size=2).map(tuple),
    )
)


def _call(name: str, *arguments: st.SearchStrategy, **named: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


CALLS = st.lists(
    st.one_of(
        _call("advance", SECONDS),
        _call("put", KEYS, st.binary(max_size=3), expect=EXPECT, ttl=st.none() | SECONDS),
        _call("get", KEYS),
        _call("delete", KEYS, expect=EXPECT),
        _call("list", st.just(prefix("acme", "thing")), after=st.none() | KEYS, limit=st.integers(1, 3)),
        _call("write", WRITES),
        _call("commit", COMMITS),
        _call("committed", MARKS, cause=IDS),
        _call("append", STEPS),
        _call("append", STEPS),
        _call("load", KEYS, handled=IDS | st.just("")),
        _call("read", KEYS, after=SMALL, limit=st.integers(1, 3)),
        _call("mark_sent", st.lists(IDS, max_size=2)),
        _call("claim_outbox", owner=IDS, idle=SECONDS, claim=SECONDS, limit=st.integers(1, 3)),
        _call("due", before_ms=SMALL, limit=st.integers(1, 3)),
        _call("drop_timers", st.lists(st.builds(Timer, IDS, SMALL, st.just(b"")), max_size=2)),
        _call("acquire_lease", KEYS, owner=IDS, ttl=SECONDS),
        _call("release_lease", st.builds(Lease, KEYS, IDS, SMALL, st.just(0))),
        _call("reserve", KEYS, st.integers(0, 5).map(float), limit=st.just(7.0), id=IDS, ttl=SECONDS),
        _call("settle", IDS, SMALL.map(float)),
        _call("drop_amounts", st.lists(KEYS, max_size=2, unique=True)),
        _call("erase", NAMES.map(lambda name: prefix("acme", "thing", name))),
        _call("drop_rows", st.lists(IDS, max_size=2)),
    ),
    max_size=40,
)


async def answers_to(store, clock, calls):
    await store.open()
    answers = []
    for name, arguments, named in calls:
        if name == "advance":
            clock.advance(*arguments)
            continue
        try:
            answer = await getattr(store, name)(*arguments, **named)
        except VersionConflict as exc:
            answer = str(exc)
        answers.append((name, list(answer) if isinstance(answer, (list, tuple)) else answer))
    await store.close()
    return answers
