"""NumPy functions of tensors in a trace: `tensor * array`, `np.sqrt(tensor)`.

NumPy reads the values of a tensor, and a traced tensor has no values. Within `traced_numpy_functions`, the function runs as the operator of
torch that computes the same, with NumPy's type promotion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_FUNCTIONS: dict[np.ufunc, Callable[..., torch.Tensor]] = {
    np.add: torch.add,
    np.subtract: torch.sub,
    np.multiply: torch.mul,
    np.divide: torch.div,
    np.power: torch.pow,
    np.maximum: torch.maximum,
    np.minimum: torch.minimum,
    np.negative: torch.neg,
    np.absolute: torch.abs,
    np.square: torch.square,
    np.sqrt: torch.sqrt,
    np.exp: torch.exp,
    np.log: torch.log,
    np.log1p: torch.log1p,
    np.tanh: torch.tanh,
    np.equal: torch.eq,
    np.not_equal: torch.ne,
    np.less: torch.lt,
    np.less_equal: torch.le,
    np.greater: torch.gt,
    np.greater_equal: torch.ge,
}

_lock = threading.RLock()

#: NumPy function -> method that Python calls on a tensor as the right operand of a NumPy scalar or array.
_REFLECTED = {
    np.add: "__radd__",
    np.subtract: "__rsub__",
    np.multiply: "__rmul__",
    np.divide: "__rtruediv__",
    np.power: "__rpow__",
    np.equal: "__eq__",
    np.not_equal: "__ne__",
    np.less: "__gt__",
    np.less_equal: "__ge__",
    np.greater: "__lt__",
    np.greater_equal: "__le__",
}


@contextmanager
def traced_numpy_functions() -> Iterator[None]:
    """A context in which a NumPy function of a tensor runs as an operator of torch; one thread at a time."""
    with _lock:
        outermost = "__array_ufunc__" not in torch.Tensor.__dict__
        if outermost:
            torch.Tensor.__array_ufunc__ = _ufunc  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if outermost:
                del torch.Tensor.__array_ufunc__  # type: ignore[attr-defined]


def _ufunc(self: torch.Tensor, function: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
    if method != "__call__" or options or function not in _FUNCTIONS:
        return NotImplemented
    left = operands[0]
    if isinstance(left, np.generic) and function in _REFLECTED:
        number = left.item()  # torch cannot subtract from a bool
        return getattr(operands[1], _REFLECTED[function])(int(number) if isinstance(number, bool) else number)
    if isinstance(left, np.ndarray) and function is np.divide:
        return operands[1].__rtruediv__(left)
    stand_ins = [_stand_in(value) for value in operands]
    with np.errstate(all="ignore"):
        wanted = function.resolve_dtypes((*map(_dtype, stand_ins), *[None] * function.nout))
    values = [_operand(value, dtype) for value, dtype in zip(operands, wanted, strict=False)]
    result = _FUNCTIONS[function](*values)
    return result.to(_torch_dtype(wanted[-1]))


def _stand_in(value: Any) -> Any:
    """An empty array in place of a tensor; any other operand as it is."""
    return np.empty(0, _numpy_dtype(value.dtype)) if isinstance(value, torch.Tensor) else value


def _dtype(value: Any) -> Any:
    """The type that NumPy promotes: the type of a Python number, the dtype of any other operand."""
    return type(value) if type(value) in (int, float, complex) else np.asarray(value).dtype


def _operand(value: Any, dtype: np.dtype[Any]) -> torch.Tensor:
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    return tensor.to(_torch_dtype(dtype))


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(str(dtype).removeprefix("torch."))


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    found = getattr(torch, dtype.name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"torch has no type for NumPy's {dtype}")
    return found
