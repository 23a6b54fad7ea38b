"""Finds arithmetic in ordinary text and writes it as an expression that Python and JavaScript read alike.

Nothing is computed here: the expression is meant for the sandbox. Text is taken apart by a tokenizer of its own and
rebuilt from the parsed tree, so no character of the text reaches the code unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, final

__all__ = ["find_expression"]

#: How much text is looked at, and how deep parentheses may nest.
_MAX_CHARS: Final = 4_000
_MAX_DEPTH: Final = 20

_ONES: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS: Final = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_WORDS: Final = {
    "plus": "+",
    "minus": "-",
    "times": "*",
    "multiplied by": "*",
    "divided by": "/",
    "modulo": "%",
    "mod": "%",
    "to the power of": "**",
    "raised to the power of": "**",
}
_SIGNS: Final = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}
_HEX: Final = "xXabcdefABCDEF0123456789"
_POSTFIX: Final = {"squared": "2", "cubed": "3"}

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\.\d|,\d|_|[^\W\d_xX]|[xX]\w*[^\W\d]))
  | (?P<sign>\*\*|[*/+\-%^()×·÷−])
  | (?P<times>[xX](?=\s*[\d(]))
  | (?P<word>[^\W\d_]+(?!\w))
  | (?P<other>\w[\w.,]*|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PHRASE: Final = re.compile(
    r"(?:"
    + "|".join(re.escape(words) for words in sorted(_WORDS, key=len, reverse=True)).replace(r"\ ", r"\s+")
    + r")\b",
    re.IGNORECASE,
)
_NUMBER_WORDS: Final = re.compile(
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?:[-\s](?P<one>{'|'.join(list(_ONES)[1:10])}))?|(?P<ones>{'|'.join(_ONES)}))\b",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True, slots=True)
class _Tree:
    """A parsed part: its text, how tightly it binds (4 is an atom), and the operators in it."""

    text: str
    binding: int
    operators: int

    def within(self, binding: int) -> str:
        return self.text if self.binding >= binding else f"({self.text})"


def find_expression(text: str) -> str | None:
    """The longest arithmetic expression in `text` that has an operator, or None.

    Digits with thousands commas, decimals, number words up to ninety-nine, the usual signs and their words are
    understood; ``^`` is a power.
    """
    best: tuple[int, str] | None = None
    for run in _runs(text[:_MAX_CHARS]):
        start = 0
        while start < len(run):
            parser = _Parser(run, start)
            tree = parser.sum(0)
            if tree is None:
                start += 1
                continue
            if tree.operators and (best is None or parser.at - start > best[0]):
                best = (parser.at - start, tree.text)
            start = parser.at
    return best[1] if best else None


def _runs(text: str) -> list[list[str]]:
    """Unbroken sequences of arithmetic tokens; anything else ends one."""
    runs: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        token, at = _next(text, at, runs[-1])
        if token is None:
            if runs[-1]:
                runs.append([])
        elif token:
            runs[-1].append(token)
    return runs


def _next(text: str, at: int, before: list[str]) -> tuple[str | None, int]:
    """The token at a position ("" for space, None for what is no arithmetic) and where the next one begins."""
    match = _TOKEN.match(text, at)
    assert match is not None
    end = match.end()
    part = match.group()
    after_operand = bool(before) and (before[-1][0].isdigit() or before[-1] in (")", *_POSTFIX))
    match match.lastgroup:
        case "space":
            return "", end
        case "number":
            digits = part.replace(",", "")
            whole = digits.partition(".")[0]
            if whole.startswith("0") and (len(whole) > 1 or text[end : end + 1] in ("x", "X")):
                return None, end + len(text[end:]) - len(text[end:].lstrip(_HEX))  # an identifier, a date, hexadecimal
            return digits, end
        case "sign":
            if text.startswith("//", at):
                return None, at + 2
            bullet = part in "-*+" and text[end : end + 1].isspace() and not text[:at].rpartition("\n")[2].strip()
            return (None if bullet else _SIGNS.get(part, part)), end
        case "times" if after_operand:
            return "*", end
        case "word" | "times":
            return _word(text, at, match)
    return None, end


def _word(text: str, at: int, match: re.Match[str]) -> tuple[str | None, int]:
    if phrase := _PHRASE.match(text, at):
        return _WORDS[" ".join(phrase.group().lower().split())], phrase.end()
    if number := _NUMBER_WORDS.match(text, at):
        tens, one, ones = number.group("tens", "one", "ones")
        value = _ONES[ones.lower()] if ones else _TENS[tens.lower()] + (_ONES[one.lower()] if one else 0)
        return str(value), number.end()
    word = match.group().lower()
    return (word if word in _POSTFIX else None), match.end()


@final
class _Parser:
    """Recursive descent with the usual precedence; takes the longest prefix that is an expression."""

    def __init__(self, tokens: list[str], at: int) -> None:
        self._tokens = tokens
        self.at = at

    def sum(self, depth: int) -> _Tree | None:
        return self._chain(("+", "-"), 1, depth)

    def _chain(self, signs: tuple[str, ...], binding: int, depth: int) -> _Tree | None:
        operand = self._product if binding == 1 else self._signed
        left = operand(depth)
        while left is not None and (sign := self._peek()) in signs:
            back = self.at
            self.at += 1
            right = operand(depth)
            if right is None:
                self.at = back
                break
            text = f"{left.within(binding)} {sign} {right.within(binding + 1)}"
            left = _Tree(text, binding, left.operators + right.operators + 1)
        return left

    def _product(self, depth: int) -> _Tree | None:
        return self._chain(("*", "/", "%"), 2, depth)

    def _signed(self, depth: int) -> _Tree | None:
        if self._peek() not in ("+", "-"):
            return self._power(depth)
        if depth > _MAX_DEPTH:
            return None
        back = self.at
        sign = self._tokens[self.at]
        self.at += 1
        inner = self._signed(depth + 1)
        if inner is None:
            self.at = back
            return None
        # JavaScript refuses `-2 ** 2`, and `--2` means something else there: only plain numbers go without parentheses.
        return inner if sign == "+" else _Tree(f"-{inner.within(4)}", 3, inner.operators)

    def _power(self, depth: int) -> _Tree | None:
        base = self._atom(depth)
        while base is not None and (exponent := _POSTFIX.get(self._peek())):
            self.at += 1
            base = _Tree(f"{base.within(4)} ** {exponent}", 3, base.operators + 1)
        if base is None or self._peek() != "**" or depth > _MAX_DEPTH:
            return base
        back = self.at
        self.at += 1
        exponent_tree = self._signed(depth + 1)
        if exponent_tree is None:
            self.at = back
            return base
        text = f"{base.within(4)} ** {exponent_tree.within(4)}"
        return _Tree(text, 3, base.operators + exponent_tree.operators + 1)

    def _atom(self, depth: int) -> _Tree | None:
        ahead = self._peek()
        if ahead and ahead[0].isdigit():
            self.at += 1
            return _Tree(ahead, 4, 0)
        if ahead != "(" or depth > _MAX_DEPTH:
            return None
        back = self.at
        self.at += 1
        inner = self.sum(depth + 1)
        if inner is None or self._peek() != ")":
            self.at = back
            return None
        self.at += 1
        return inner

    def _peek(self) -> str:
        return self._tokens[self.at] if self.at < len(self._tokens) else ""
