"""Serving the gateway on a Unix socket, inside an event loop that somebody else runs.

The socket is the access control: only its owner may connect. No signal handler is installed; stopping is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import uvicorn

from rockbot.operators.faults import SocketTaken

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["GatewayServer", "serve"]

#: Seconds that requests in flight get when the server stops.
_GRACE: Final = 1
#: What the kernel takes as the path of a Unix socket (Linux: 108 bytes with the final zero).
_LONGEST_PATH: Final = 107


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, socket_path: Path) -> AsyncIterator[GatewayServer]:
    """Serve while the block runs.

    Raises:
        SocketTaken: as `GatewayServer.bind`.
    """
    server = GatewayServer(app, socket_path)
    server.bind()
    try:
        await server.start()
        yield server
    finally:
        await server.close()


@final
class _Uvicorn(uvicorn.Server):
    """Leaves signals alone, and sleeps until it is told to stop instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stopping.wait()


@final
class GatewayServer:
    """One server on one socket file (mode 0600; folders it has to create have 0700).

    Binding comes first, so that a second host is refused before it opens anything; a client that connects between `bind`
    and `start` waits.
    """

    def __init__(self, app: ASGIApp, socket_path: Path) -> None:
        self.path = socket_path
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # the application logs its own errors; requests are nobody's business
            access_log=False,
            lifespan="off",
            http="h11",
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Uvicorn(config)
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode = 0

    def bind(self) -> None:
        """Take the socket.

        Raises:
            SocketTaken: another process listens there, or something lies there that is no socket; the text names it.
        """
        self._listener = _bind(self.path)
        self._inode = self.path.lstat().st_ino

    async def start(self) -> None:
        """Serve whoever connects. `bind` came first."""
        assert self._listener is not None
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="gateway")

    async def close(self) -> None:
        """Stop, give requests in flight a second, remove the socket file if it is still ours; idempotent."""
        listener, self._listener = self._listener, None
        task, self._task = self._task, None
        if listener is None:
            return
        try:
            if task is not None:
                self._server.stopping.set()
                await task
        finally:
            listener.close()
            with contextlib.suppress(FileNotFoundError):
                if self.path.lstat().st_ino == self._inode:
                    self.path.unlink()


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SocketTaken(f"the socket path {path} is longer than {_LONGEST_PATH} bytes: choose another with --socket")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # On Linux the file gets the mode of its socket, so there is no instant at which others could connect.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(path))
            path.chmod(0o600)
            # Connections wait in the backlog from here on, also before the server takes them.
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except SocketTaken:
        raise
    except OSError as exc:
        raise SocketTaken(f"cannot listen on {path}: {exc.strerror or exc}") from None
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken(f"{path} exists and is no socket: remove it, or choose another path with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass  # somebody is there, only busy
    raise SocketTaken(f"another host listens on {path}: stop it, or choose another path with --socket")
