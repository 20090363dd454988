"""Sizes written as expressions over dimension names: `"2*batch + 1"`, `"Max(1, batch//2)"`.

Signatures hold them as text, and a signature may come from a file. This module parses and evaluates them by a small grammar, not as
Python: names, whole numbers, `+ - * / // % **` with a small constant exponent, and the functions in sympy's symbolic sizes. Any other
text is an error.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

_MOST_CHARACTERS = 2000
_MOST_DEPTH = 100
_MOST_EXPONENT = 8


def _pick(kind: Callable[..., int], symbolic: Callable[..., Any]) -> Callable[..., Any]:
    def choose(*values: Any) -> Any:
        return kind(values) if all(isinstance(v, int) for v in values) else functools.reduce(symbolic, values)

    return choose


_BINARY: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("//", operator.floordiv),  # sizes are whole, so a quotient in a size is exact
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}
#: Name -> (number of arguments or None for any, Python source, function).
_FUNCTIONS: dict[str, tuple[int | None, str, Callable[..., Any]]] = {
    "Max": (None, "max(({},))", _pick(max, torch.sym_max)),
    "Min": (None, "min(({},))", _pick(min, torch.sym_min)),
    "Mod": (2, "({} % {})", operator.mod),
    "PythonMod": (2, "({} % {})", operator.mod),
    "FloorDiv": (2, "({} // {})", operator.floordiv),
    "CleanDiv": (2, "({} // {})", operator.floordiv),
    "CeilDiv": (2, "(-(-{} // {}))", lambda a, b: -(-a // b)),
}


def dimensions(expression: str) -> list[str]:
    """The dimension names in an expression, each once.

    Raises:
        ValueError: `expression` is not an expression over sizes.
    """
    called = [n.func for n in ast.walk(_parse(expression)) if isinstance(n, ast.Call)]
    found = [n for n in ast.walk(_parse(expression)) if isinstance(n, ast.Name) and n not in called]
    return list(dict.fromkeys(name.id for name in found))


def evaluate(expression: str, sizes: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Args:
        expression: The expression.
        sizes: Dimension name -> its size, an int or a symbolic size.

    Returns:
        The value, or None when `sizes` lacks a dimension of the expression, or a divisor is zero.

    Raises:
        ValueError: `expression` is not an expression over sizes.
    """
    try:
        return _value(_parse(expression), sizes)
    except (KeyError, ZeroDivisionError):
        return None


def render(expression: str, names: Mapping[str, str]) -> str:
    """Python source of an expression.

    Args:
        expression: The expression.
        names: Dimension name -> the variable that holds it.

    Raises:
        ValueError: `expression` is not an expression over sizes.
    """
    return _source(_parse(expression), names)


@functools.lru_cache(maxsize=4096)
def _parse(expression: str) -> ast.expr:
    if len(expression) > _MOST_CHARACTERS:
        raise ValueError("the expression of the size is too long")
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{expression[:100]!r} is not an expression over sizes") from error
    _require_plain(tree, expression, _MOST_DEPTH)
    return tree


def _require_plain(node: ast.expr, expression: str, depth: int) -> None:
    """Raises `ValueError` for syntax outside the grammar."""
    inner: list[ast.expr] = []
    match node:
        case ast.Name():
            plain = True
        case ast.Constant(value=value):
            plain = type(value) is int and 0 <= value < 1 << 62
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            plain, inner = True, [operand]
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            plain, inner = isinstance(right, ast.Constant) and type(right.value) is int, [left]
            plain = plain and 0 <= right.value <= _MOST_EXPONENT  # type: ignore[attr-defined]
        case ast.BinOp(left=left, op=operation, right=right):
            plain, inner = type(operation) in _BINARY, [left, right]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            count = _FUNCTIONS[name][0] if name in _FUNCTIONS else 0
            plain, inner = bool(arguments) and count in (None, len(arguments)), arguments
        case _:
            plain = False
    if not plain or depth == 0:
        raise ValueError(f"{expression[:100]!r} is not an expression over sizes")
    for part in inner:
        _require_plain(part, expression, depth - 1)


def _value(node: ast.expr, sizes: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return sizes[name]
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=operation, right=right):
            return _BINARY[type(operation)][1](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name][2](*(_value(a, sizes) for a in arguments))
    raise AssertionError(ast.dump(node))  # `_parse` refused it


def _source(node: ast.expr, names: Mapping[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return names[name]
        case ast.Constant(value=value):
            return str(value)
        case ast.UnaryOp(operand=operand):
            return f"(-{_source(operand, names)})"
        case ast.BinOp(left=left, op=operation, right=right):
            return f"({_source(left, names)} {_BINARY[type(operation)][0]} {_source(right, names)})"
        case ast.Call(func=ast.Name(id=name), args=arguments):
            parts, text = [_source(a, names) for a in arguments], _FUNCTIONS[name][1]
            return text.format(*parts) if _FUNCTIONS[name][0] else text.format(", ".join(parts))
    raise AssertionError(ast.dump(node))  # `_parse` refused it
