"""A process that appends to a state file until it dies; run by test_crashes.py.

crashing.py PATH forever            appends to four streams at once, prints "STREAM VERSION" after each append
crashing.py PATH at BYTES           for each line N on standard input, a process of its own that kills itself at the N-th SQL
                                    statement of one append, with a record of BYTES; prints how that ended
crashing.py PATH commit BYTES       the same with one commit, with an effect of BYTES
crashing.py PATH full               runs out of disk in the middle of an append, then goes on
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

from rockbot.state.keys import conversation_key, key, task_key
from rockbot.state.ports import Append, Commit, IndexRow, OutboxRow, StateUnavailable, Timer, Write
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock


def step_of(stream: str, version: int, size: int = 0) -> Append:
    """The step that leads to `version` + 1: everything in it carries that number."""
    number = str(version + 1)
    name = f"{stream}-{number}"
    return Append(
        stream=conversation_key("acme", stream),
        expected_version=version,
        records=(number.encode() + b" " * size,),
        handled=name,
        snapshot=number.encode(),
        outbox=(OutboxRow(id=name, cause=name, message=b"x", door="commands", awaits_answer=True),),
        answered=(f"{stream}-{version}",),
        timers=(Timer(stream, version + 1, b""),),
        index=(IndexRow(task_key("acme", stream), number.encode()),),
    )


def commit_of(cause: str, size: int = 0) -> Commit:
    """What handling the message `cause` does: two values written, one deleted, two messages sent."""
    return Commit(
        mark=key("acme", "handled", "orders", cause),
        remember=3600,
        cause=cause,
        writes=(
            Write(key=key("acme", "thing", "one"), value=b"1" + b" " * size, expect=0),
            Write(key=key("acme", "thing", "two"), value=b"2"),
            Write(key=key("acme", "thing", "old"), value=None),
        ),
        outbox=tuple(OutboxRow(id=f"{cause}-{n}", cause=cause, message=b"x", door="commands") for n in "ab"),
    )


async def forever(store: SqliteStateStore) -> None:
    async def grow(stream: str) -> None:
        version = (await store.load(conversation_key("acme", stream))).version
        while True:
            version = await store.append(step_of(stream, version))
            print(stream, version, flush=True)

    await asyncio.gather(*(grow(stream) for stream in "abcd"))


async def at(store: SqliteStateStore, what: str, statement: int, size: int) -> None:
    seen = 0

    def count(sql: str) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    await store._file.read(lambda connection: connection.set_trace_callback(count))
    version = (await store.load(conversation_key("acme", "a"))).version
    seen = 0
    if what == "commit":
        await store.commit(commit_of("m1", size))
    else:
        await store.append(step_of("a", version, size))
    print("survived", flush=True)


async def full(store: SqliteStateStore, path: Path) -> None:
    await store.append(step_of("a", 0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size + 8192, before[1]))
    try:
        await store.append(step_of("a", 1, size=1 << 20))
    except StateUnavailable as exc:
        print(exc)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(await store.append(step_of("a", 1)))


def each(path: Path, what: str, size: int) -> None:
    """What is imported here once is not imported by each of the processes that die."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(main(path, what, line, str(size)))
            os._exit(0)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


async def main(path: Path, *arguments: str) -> None:
    store = SqliteStateStore(path, SystemClock())
    await store.open()
    match arguments:
        case ("forever",):
            await forever(store)
        case ("at" | "commit" as what, statement, size):
            await at(store, what, int(statement), int(size))
        case ("full",):
            await full(store, path)
    await store.close()


if __name__ == "__main__":
    match sys.argv[2:]:
        case ["at" | "commit" as what, size]:
            each(Path(sys.argv[1]), what, int(size))
        case arguments:
            asyncio.run(main(Path(sys.argv[1]), *arguments))
