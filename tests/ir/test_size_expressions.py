"""Size expressions: their values, their Python source, the dimensions they name, and texts that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.ir.size_expressions import dimensions, evaluate, render

CASES = {
    "7": 7,
    "batch": 5,
    "batch + 2": 7,
    "batch - 7": -2,
    "3*batch": 15,
    "batch/5": 1,
    "batch//2": 2,
    "-batch//2": -3,
    "batch % 3": 2,
    "batch**2": 25,
    "batch**0": 1,
    "2**8": 256,
    "-batch": -5,
    "2*(batch + length)": 16,
    "Max(1, batch)": 5,
    "Max(batch, length, 9)": 9,
    "Min(1, batch)": 1,
    "Min(batch)": 5,
    "Mod(batch, 3)": 2,
    "PythonMod(-batch, 3)": 1,
    "FloorDiv(batch, 2)": 2,
    "CleanDiv(batch, 5)": 1,
    "CeilDiv(batch, 2)": 3,
    "CeilDiv(-batch, 2)": -2,
    "Max(1, batch//2) * CeilDiv(length, 2) + 1": 5,
}
SIZES = {"batch": 5, "length": 3}


@pytest.mark.parametrize("expression", CASES)
def test_values_and_source_agree(expression: str) -> None:
    assert evaluate(expression, SIZES) == CASES[expression]
    source = render(expression, {"batch": "b0", "length": "x1_2"})
    assert eval(source, {"b0": 5, "x1_2": 3, "max": max, "min": min}) == CASES[expression]


def test_dimensions_are_named_once_and_functions_are_none() -> None:
    assert dimensions("3") == []
    assert dimensions("batch + 2*length + batch") == ["batch", "length"]
    assert dimensions("Max(1, batch)") == ["batch"]
    assert dimensions("Max(Max, batch)") == ["Max", "batch"]


def test_a_value_that_is_not_known() -> None:
    assert evaluate("batch + other", SIZES) is None
    assert evaluate("batch // (length - 3)", SIZES) is None
    assert evaluate("Mod(batch, 0)", SIZES) is None


@pytest.mark.parametrize(
    "expression",
    [
        *("", "1.5", "True", "'a'", "-1j", "None", "[1]", "a.b", "a[0]", "a if b else c", "a < b", "a and b", "~a", "+a"),
        *("not a", "a @ b", "a << 2", "a | b", "lambda: 1", "f(a)", "Max()", "Max(a, key=b)", "Max(*a)", "Mod(a)"),
        *("Mod(a, b, c)", "FloorDiv(a)", "CeilDiv(a, b, c)", "abs(a)", "__import__('os')", "(a := 1)", "a**b", "a**9"),
        *("a**-1", "a**True", "a**2.0", f"{1 << 62}", "x.y(1)", "(1, 2)", "1 2", "a +", "-" * 200 + "a", "+".join("a" * 200)),
        " + ".join(["a"] * 700),
    ],
)  # fmt: skip
def test_what_is_no_expression(expression: str) -> None:
    for call in (
        lambda: evaluate(expression, {"a": 1}),
        lambda: dimensions(expression),
        lambda: render(expression, {"a": "a"}),
    ):
        with pytest.raises(ValueError, match="size"):
            call()


def test_the_largest_that_are_taken() -> None:
    assert evaluate(str((1 << 62) - 1), {}) == (1 << 62) - 1
    assert evaluate("a**8", {"a": 2}) == 256
    assert evaluate("-" * 99 + "a", {"a": 3}) == -3
    with pytest.raises(ValueError, match="not an expression over sizes"):
        evaluate("-" * 100 + "a", {"a": 3})
    long = "a" + " " * 1998 + "+"
    assert evaluate(long[:-1] + " ", {"a": 3}) == 3
    with pytest.raises(ValueError, match="too long"):
        evaluate(long + "a", {"a": 3})


@given(a=st.integers(0, 50), b=st.integers(1, 50))
def test_arithmetic_is_that_of_python(a: int, b: int) -> None:
    for sign, expected in (("+", a + b), ("-", a - b), ("*", a * b), ("//", a // b), ("%", a % b)):
        assert evaluate(f"a {sign} b", {"a": a, "b": b}) == expected
    assert evaluate("CeilDiv(a, b)", {"a": a, "b": b}) == -(-a // b)
