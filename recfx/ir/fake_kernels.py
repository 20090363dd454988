"""Fake kernels that do not fix the batch; they replace torch's own while a model is traced.

Some of torch's fake kernels compare the batch with a number. Tracing then limits the batch to the example's side of that number. Examples:
`x[-3:]` is clamped to its tensor, so its fake kernel requires 3 rows; `cdist` chooses another formula above 25 rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._C import DispatchKey
from torch._subclasses import fake_impls

from recfx.ir.true_sizes import slice_bounds

_aten = torch.ops.aten
_COMPOSED = DispatchKey.CompositeImplicitAutograd
#: The mode of cdist that uses no matrix product. Fake values need no choice of a formula; torch makes it when the operator runs.
_DIRECT_DISTANCES = 2

#: The operators whose fake kernels are replaced.
REPLACED = frozenset({_aten.slice.Tensor, _aten.cdist.default})

_lock = threading.RLock()
_depth = 0


@contextmanager
def batch_free_kernels() -> Iterator[None]:
    """A context in which the fake kernels of `REPLACED` leave the batch free."""
    global _depth
    kernels: dict[Any, Any] = fake_impls.op_implementations_dict
    with _lock:
        outermost, own = _depth == 0, kernels[_aten.slice.Tensor]
        _depth += 1
        if outermost:
            kernels[_aten.slice.Tensor] = partial(_slice, own)
            _aten.cdist.default.py_impl(_COMPOSED)(_distances)
        try:
            yield
        finally:
            _depth -= 1
            if outermost:
                kernels[_aten.slice.Tensor] = own
                del _aten.cdist.default.py_kernels[_COMPOSED]
                _aten.cdist.default._dispatch_cache.clear()


def _slice(own: Any, mode: Any, func: Any, source: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """A slice whose size is an expression over the batch; torch's own kernel where no such expression exists."""
    given = dict(zip(("dim", "start", "end", "step"), args, strict=False)) | kwargs
    step = given.get("step", 1)
    dim = given.get("dim", 0) % source.ndim if source.ndim else 0
    bounds = slice_bounds(source, dim, given.get("start"), given.get("end"), step) if source.ndim and step > 0 else None
    if bounds is None or source.is_quantized:
        return own(mode, func, source, *args, **kwargs)
    first, length = bounds
    sizes, strides = list(source.shape), list(source.stride())
    offset = source.storage_offset() + first * strides[dim]
    sizes[dim] = length
    strides[dim] *= step
    return source.as_strided(sizes, strides, offset)


def _distances(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: int | None = None) -> torch.Tensor:
    found: torch.Tensor = _aten._cdist_forward.default(a, b, p, _DIRECT_DISTANCES)
    return found
