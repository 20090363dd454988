"""Values as Python source."""

from __future__ import annotations

import ast
import math
from typing import Any

import torch

_PLAIN = (bool, int, str, bytes, type(None))


def as_code(value: Any) -> str:
    """A value as Python source, infinities and NaN included."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def value_source(value: Any, name: str | None = None) -> str | None:
    """An expression for a value, or a statement that assigns it; None if the value has no expression.

    Args:
        value: The value. Numbers, strings, containers of these, dtypes, devices and torch operators have an expression.
        name: The name to assign, together with the import that the expression needs; None for the expression alone.
    """
    torch_values = torch._ops.OpOverload | torch._ops.OpOverloadPacket | torch._ops._OpNamespace
    if isinstance(value, torch_values):
        text = f"torch.ops.{_operator_path(value)}"
    elif isinstance(value, torch.dtype | torch.device):
        text = repr(value) if isinstance(value, torch.dtype) else f"torch.{value!r}"
    elif type(value) in (*_PLAIN, float):
        text = as_code(value)
    elif _is_literal(value):
        text = repr(value)
    else:
        return None
    if name is None:
        return text
    return f"import torch\n{name} = {text}" if text.startswith("torch.") else f"{name} = {text}"


def _operator_path(value: Any) -> str:
    if isinstance(value, torch._ops._OpNamespace):
        return str(value.name)
    return str(value)


def _is_literal(value: Any) -> bool:
    """Whether `repr` of a container is a literal of equal value."""
    if type(value) not in (tuple, list, dict, set):
        return False
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
