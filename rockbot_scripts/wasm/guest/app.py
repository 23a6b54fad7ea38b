"""The Python program inside the sandbox: it runs one script and reports how the script ended.

It is compiled, together with CPython, into a WebAssembly component. There is no file system in there, so only the
modules imported while the component is built exist when a script runs. This file is never imported by the host.
"""
# mypy: ignore-errors
# ruff: noqa: S307, S110, SIM105, SIM905

import ast
import asyncio
import importlib
import io
import linecache
import random
import sys
import time
import traceback
import types

import wit_world
from wit_world import Outcome
from wit_world.imports import host

MODULES = """
abc argparse array ast asyncio base64 binascii bisect builtins calendar cmath cmd code codecs codeop
collections collections.abc colorsys concurrent.futures configparser contextlib contextvars copy copyreg csv
dataclasses datetime decimal difflib dis doctest email email.message email.mime.multipart email.mime.text
email.parser email.policy email.utils encodings.ascii encodings.cp1252 encodings.idna encodings.latin_1
encodings.punycode encodings.utf_16 encodings.utf_16_be encodings.utf_16_le encodings.utf_32
encodings.utf_8_sig encodings.unicode_escape encodings.raw_unicode_escape encodings.base64_codec
encodings.hex_codec encodings.rot_13 enum errno fnmatch fractions functools gc getopt getpass gettext glob
graphlib gzip hashlib heapq hmac html html.entities html.parser http http.cookies imaplib inspect io ipaddress
itertools json json.decoder json.encoder keyword linecache locale logging logging.config logging.handlers
marshal math mimetypes numbers operator opcode optparse os os.path pathlib pickle pickletools pkgutil platform
plistlib pprint queue quopri random re reprlib sched secrets selectors shelve shlex shutil signal socket
sqlite3 statistics stat string string.templatelib stringprep struct subprocess symtable sysconfig tarfile
tempfile textwrap threading time timeit token tokenize tomllib traceback trace types typing unicodedata
unittest unittest.mock urllib urllib.error urllib.parse urllib.request uuid warnings wave weakref
xml.dom.minidom xml.etree.ElementTree xml.sax zipfile zlib zoneinfo
""".split()

for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ImportError:
        pass

BLOCK = 4096
DIRECT_LINES = 32
FLUSH_AFTER = 0.02
NAP = 0.02
TRACEBACK_CHARS = 16384

_monotonic = time.monotonic
_sleep = time.sleep


def sleep(seconds, /):
    """Sleep in short naps: the deadline is checked between host calls, not inside one."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    end = _monotonic() + seconds
    while (left := end - _monotonic()) > 0:
        _sleep(min(left, NAP))


class Binary(io.RawIOBase):
    """The `.buffer` of an output stream: bytes are shown as UTF-8."""

    def __init__(self, text):
        self.text = text

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self.text.write(data.decode("utf-8", "replace"))
        return len(data)

    def flush(self):
        self.text.flush()


class Out(io.TextIOBase):
    """An output stream. The first lines leave at once, so that a script that hangs shows them; then blocks."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, fd):
        self.fd = fd
        self.parts = []
        self.size = 0
        self.direct = DIRECT_LINES
        self.sent = _monotonic()
        self.buffer = Binary(self)

    def writable(self):
        return True

    def fileno(self):
        return self.fd

    def reconfigure(self, **_options):
        pass

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        for start in range(0, len(text), 65536):
            piece = text[start : start + 65536]
            self.parts.append(piece)
            self.size += len(piece)
            if self.size >= BLOCK:
                self.flush()
        if self.parts and (text.endswith("\n") or "\n" in text):
            if self.direct > 0:
                self.direct -= 1
                self.flush()
            elif _monotonic() - self.sent > FLUSH_AFTER:
                self.flush()
        return len(text)

    def flush(self):
        if self.parts:
            text = "".join(self.parts)
            self.parts.clear()
            self.size = 0
            host.emit(self.fd, text.encode("utf-8", "replace").decode("utf-8"))
            self.sent = _monotonic()


class Idle:
    """Stands in for a selector: with no sockets to watch, waiting for events is sleeping."""

    def __init__(self):
        self.keys = {}

    def register(self, *_args):
        raise PermissionError("the sandbox has no network")

    unregister = modify = register

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("the event loop waits for something that can never happen in the sandbox")
        if timeout > 0:
            sleep(timeout)
        return []

    def get_map(self):
        return self.keys

    def close(self):
        pass


class Loop(asyncio.base_events.BaseEventLoop):
    """An event loop of timers and callbacks only: enough for asyncio.run, sleep, gather, queues and timeouts."""

    def __init__(self):
        super().__init__()
        self._selector = Idle()

    def _process_events(self, _events):
        pass

    def _write_to_self(self):
        pass


class Policy(asyncio.events._BaseDefaultEventLoopPolicy):
    _loop_factory = Loop


asyncio.events._event_loop_policy = Policy()
asyncio.new_event_loop = asyncio.events.new_event_loop = Loop
asyncio.runners.events.new_event_loop = Loop
time.sleep = sleep


def report(failure):
    """Return the traceback of the guest alone: the frames of this file are the host's business."""
    text = "".join(traceback.format_exception(type(failure), failure, failure.__traceback__))
    return (
        text
        if len(text) <= TRACEBACK_CHARS
        else text[: TRACEBACK_CHARS // 2] + "\n[...]\n" + text[-TRACEBACK_CHARS // 2 :]
    )


def own_frames_removed(failure):
    trace = failure.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != "<script>":
        trace = trace.tb_next
    return failure.with_traceback(trace)


def evaluate(code, scope):
    tree = ast.parse(code, "<script>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    value = step(compile(tree, "<script>", "exec", flags), scope)
    if last is not None:
        value = step(compile(ast.Expression(last.value), "<script>", "eval", flags), scope)
    return value if last is not None else None


LOOPS = []


def step(compiled, scope):
    if not compiled.co_flags & 0x80:  # CO_COROUTINE: the script awaits at its top level
        return eval(compiled, scope)
    if not LOOPS:
        LOOPS.append(Loop())
    return LOOPS[0].run_until_complete(eval(compiled, scope))


def finish(stream):
    """Flush what the script printed; a script may have replaced or closed the stream."""
    try:
        stream.flush()
    except Exception:
        pass


class WitWorld(wit_world.WitWorld):
    def run(self, code, text, value_limit):
        out, err = Out(1), Out(2)
        sys.stdout = sys.__stdout__ = out
        sys.stderr = sys.__stderr__ = err
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(text.encode("utf-8")), encoding="utf-8", newline=None)
        sys.argv = ["<script>"]
        random.seed()  # the generator was frozen into the component with its state
        linecache.cache["<script>"] = (len(code), None, code.splitlines(keepends=True), "<script>")
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        scope = module.__dict__
        scope["__builtins__"] = __builtins__
        reserve = bytearray(512 * 1024)
        ending, value, has_value, cut, exit_code, reason = "done", "", False, False, 0, ""
        try:
            result = evaluate(code, scope)
            if result is not None:
                value, has_value = repr(result), True
                if len(value) > value_limit:
                    value, cut = value[:value_limit], True
                value = value.encode("utf-8", "replace").decode("utf-8")
            result = None
        except SystemExit as failure:
            ending = "exited"
            if failure.code is None:
                exit_code = 0
            elif isinstance(failure.code, int):
                exit_code = failure.code & 0xFF
            else:
                exit_code = 1
                err.write(f"{failure.code}\n")
        except MemoryError as failure:
            del reserve
            failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            scope.clear()
            ending = "memory"
        except BaseException as failure:
            ending = "recursion" if isinstance(failure, RecursionError) else "failed"
            own_frames_removed(failure)
            try:
                err.write(report(failure))
                reason = "".join(traceback.format_exception_only(failure)).strip().splitlines()[-1][:500]
            except Exception:
                reason = type(failure).__name__
            reason = reason.encode("utf-8", "replace").decode("utf-8")
        for stream in (sys.stdout, sys.stderr, out, err):
            finish(stream)
        return Outcome(ending, value, has_value, cut, exit_code, reason)
