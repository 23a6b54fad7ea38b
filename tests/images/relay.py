"""Carries connections from one address to another: ``relay.py LISTEN TARGET``, each ``unix:/path`` or ``tcp:host:port``.

A container without any network has its own loopback and the files that are shared with it. One relay in there and one
outside, with a socket file between them, let it reach a single address and nothing else. The standard library is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, where = target.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(where)
    host, _, port = where.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def main(listen: str, target: str) -> None:
    """Serve until the process is ended."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await _connect(target)
        except OSError as exc:
            print(f"{target}: {exc}", file=sys.stderr, flush=True)
            writer.close()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    kind, _, where = listen.partition(":")
    if kind == "unix":
        server = await asyncio.start_unix_server(carry, where)
        os.chmod(where, 0o666)
    else:
        host, _, port = where.rpartition(":")
        server = await asyncio.start_server(carry, host, int(port))
    print("relaying", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
