"""Questions to the person at the terminal, asked without standing still: a connection to a broker wants to be kept alive."""

from __future__ import annotations

import asyncio
import io
import sys

from rockbot.cli.render import Screen

__all__ = ["agrees", "answer"]


async def answer(screen: Screen, question: str) -> str | None:
    """One line of what is typed, without blanks around it; None at the end of the input. The question goes to standard error."""
    screen.ask(question)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        descriptor = sys.stdin.fileno()
        loop.add_reader(descriptor, ready.set)
    except (OSError, ValueError, io.UnsupportedOperation):
        return _line()  # not something that one waits for
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return _line()


def _line() -> str | None:
    line = sys.stdin.readline()
    return line.strip() if line else None


async def agrees(screen: Screen, question: str, *, default: bool = False) -> bool:
    """Whether the answer is yes; nothing but a newline is `default`, the end of the input is no. Asked again otherwise."""
    while True:
        typed = await answer(screen, f"{question} [{'Y/n' if default else 'y/N'}] ")
        match typed and typed.lower():
            case "y" | "yes":
                return True
            case "n" | "no" | None:
                return False
            case "":
                return default
            case _:
                screen.say("say y or n")
