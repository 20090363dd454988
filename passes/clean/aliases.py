"""Names of operators that torch defines as another operator, with the same arguments: alias -> the name that passes read."""

from __future__ import annotations

from typing import Any

import torch

_aten = torch.ops.aten

#: "alias -> name", for the overloads that both have.
_NAMES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "linalg_matmul": "matmul",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "special_erf": "erf",
    "special_erfc": "erfc",
    "special_exp2": "exp2",
    "special_expit": "sigmoid",
    "special_expm1": "expm1",
    "special_log1p": "log1p",
    "special_logit": "logit",
    "special_logsumexp": "logsumexp",
    "subtract": "sub",
    "true_divide": "div",
}


def _overloads(alias: str, name: str) -> dict[Any, Any]:
    """The overloads of an alias with those of its name that take the same arguments and give one tensor."""
    packets = getattr(_aten, alias), getattr(_aten, name)
    shared = [o for o in packets[0].overloads() if o in packets[1].overloads() and "out" not in o.split("_")]
    pairs = ((getattr(packets[0], o), getattr(packets[1], o)) for o in shared)
    return {a: b for a, b in pairs if _arguments(a) == _arguments(b) and len(b._schema.returns) == 1}


def _arguments(overload: Any) -> list[tuple[str, str, Any, bool]]:
    return [(a.name, str(a.type), a.default_value, a.kwarg_only) for a in overload._schema.arguments]


#: Alias -> name, overload by overload.
ALIASES: dict[Any, Any] = {
    **{old: new for alias, name in _NAMES.items() for old, new in _overloads(alias, name).items()},
    _aten.special_softmax.default: _aten.softmax.int,
    # Export writes a number as the tensor operand of these operators.
    **dict.fromkeys((_aten.mul.Scalar, _aten.multiply.Scalar), _aten.mul.Tensor),
    **dict.fromkeys((_aten.div.Scalar, _aten.divide.Scalar, _aten.true_divide.Scalar), _aten.div.Tensor),
}
