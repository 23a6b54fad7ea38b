"""Finding arithmetic: phrases, what is no arithmetic, and generated expressions against an evaluator of our own."""

from __future__ import annotations

import ast
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_handlers.llm.arithmetic import find_expression


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("12 * (3+4)", "12 * (3 + 4)"),
        ("What is 6 times 7?", "6 * 7"),
        ("six times seven", "6 * 7"),
        ("Please tell me 100 minus 58, thanks", "100 - 58"),
        ("What is 1,000 divided by 8?", "1000 / 8"),
        ("twenty-one plus two", "21 + 2"),
        ("2 to the power of 10", "2 ** 10"),
        ("2^10", "2 ** 10"),
        ("-2^2", "-(2 ** 2)"),
        ("(-2)^2", "(-2) ** 2"),
        ("3 x 4", "3 * 4"),
        ("3x4", "3 * 4"),
        ("7 × 8 ÷ 2", "7 * 8 / 2"),
        ("5 squared plus 12 squared", "5 ** 2 + 12 ** 2"),
        ("2+2=5", "2 + 2"),
        ("between text 1 + 2 and later 3 + 4 + 5 more text", "3 + 4 + 5"),
        ("- 12 * 4", "12 * 4"),
        ("1. 2+3", "2 + 3"),
        ("compute ((1+2)*3", "(1 + 2) * 3"),
        ("8 - (3 - 2)", "8 - (3 - 2)"),
        ("2 ** 3 ** 2", "2 ** (3 ** 2)"),
    ],
)
def test_arithmetic_in_words_and_signs_is_found(text: str, expression: str) -> None:
    assert find_expression(text) == expression


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "call me at 5",
        "2024-01-02",
        "version 3.11.2",
        "host 127.0.0.1/8",
        "0x10 + 2",
        "1e5+2",
        "007 + 1",
        "a1+2",
        "1,5+2",
        "20% of 50",
        "and/or",
        "import os; os.system('x')",
    ],
)
def test_what_is_no_arithmetic_is_left_alone(text: str) -> None:
    assert find_expression(text) is None


def value_of(source: str) -> Fraction:
    """The exact value of an expression of numbers, + - * / ** and signs; anything else is an error."""

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float()):
                return Fraction(ast.get_source_segment(source, node) or "")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = walk(left), walk(right)
                match op:
                    case ast.Add():
                        return a + b
                    case ast.Sub():
                        return a - b
                    case ast.Mult():
                        return a * b
                    case ast.Div():
                        return a / b if b else Fraction(0)
        raise AssertionError(f"{ast.dump(node)} has no place in arithmetic")

    return walk(ast.parse(source, mode="eval").body)


_WORDS = {
    "+": ["+", " plus "],
    "-": ["-", " minus "],
    "*": ["*", " times ", " multiplied by "],
    "/": ["/", " divided by "],
}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 4) -> tuple[str, Fraction]:
    """A phrase and its value, every part in parentheses so that the value needs no precedence."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99_999))
        return (f"{number:,}" if draw(st.booleans()) else str(number)), Fraction(number)
    left, a = draw(expressions(depth - 1))
    right, b = draw(expressions(depth - 1))
    sign = draw(st.sampled_from("+-*/"))
    value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b if b else Fraction(0)}[
        sign
    ]()
    space = draw(st.sampled_from(["", " "]))
    return f"({left}{space}{draw(st.sampled_from(_WORDS[sign]))}{space}{right})", value


@given(expressions(), expressions(), st.sampled_from(["What is {}?", "{}", "please: {}. thanks", "Compute {}!"]))
def test_generated_arithmetic_keeps_its_value(
    left: tuple[str, Fraction], right: tuple[str, Fraction], frame: str
) -> None:
    found = find_expression(frame.format(f"{left[0]} + {right[0]}"))
    assert found is not None
    assert value_of(found) == left[1] + right[1]


_NUMBER = st.integers(1, 50).map(str)


@given(st.lists(st.tuples(_NUMBER, st.sampled_from("+-*/")), min_size=1, max_size=8), _NUMBER)
def test_precedence_is_the_usual_one(pairs: list[tuple[str, str]], last: str) -> None:
    text = "".join(f"{number}{sign}" for number, sign in pairs) + last
    found = find_expression(f"what is {text}?")
    assert found is not None
    assert value_of(found) == value_of(text)


@given(st.text(alphabet="0123456789+-*/^()., xX%\nsquaredplus", max_size=60))
def test_whatever_is_found_is_plain_arithmetic(text: str) -> None:
    found = find_expression(text)
    if found is not None:
        tree = ast.parse(found, mode="eval")
        allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
        assert all(isinstance(node, allowed) for node in ast.walk(tree))
        assert any(isinstance(node, ast.BinOp) for node in ast.walk(tree))


@pytest.mark.parametrize("text", ["(" * 20_000, "1+(" * 6000, "1-" * 10_000, "-" * 20_000 + "1", "2**" * 6000 + "2"])
def test_hostile_nesting_neither_overflows_nor_hangs(text: str) -> None:
    found = find_expression(text)
    assert found is None or len(found) < 20_000
