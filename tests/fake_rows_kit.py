"""Fake rows of every kind, and the facts that fake values are compared by."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch._dispatch.python import enable_python_dispatcher
from torch.utils import _pytree as pytree

from recfx.ir.propagate import fake_inputs
from recfx.ir.quick_shapes import quick_value

_aten = torch.ops.aten
_CPU = torch.device("cpu")


def fakes(*inputs: tuple[tuple[int | str, ...], torch.dtype]) -> list[torch.Tensor]:
    return fake_inputs([(shape, dtype, _CPU) for shape, dtype in inputs])


def by_kernel(target: Any, args: tuple[Any, ...]) -> torch.Tensor:
    tensor = next(a for a in pytree.tree_leaves(args) if isinstance(a, torch.Tensor))
    with torch.no_grad(), tensor.fake_mode, enable_python_dispatcher():
        made: torch.Tensor = target(*args)
    return made


def limits_of(args: Any) -> Any:
    """What is known of symbolic sizes."""
    env = next(a for a in pytree.tree_leaves(args) if isinstance(a, torch.Tensor)).fake_mode.shape_env
    return len(env.guards), dict(env.var_to_range), dict(env.replacements), dict(env.deferred_runtime_asserts)


def sizes(values: Any) -> list[Any]:
    return [v.node.expr if isinstance(v, torch.SymInt) else v for v in values]


def facts(value: torch.Tensor) -> Any:
    return sizes(value.shape), sizes(value.stride()), value.dtype, value.device, value.requires_grad


def fakes_of(*shapes: tuple[int | str, ...], dtypes: tuple[torch.dtype, ...] = ()) -> list[torch.Tensor]:
    kinds = dtypes or (torch.float32,) * len(shapes)
    return fakes(*zip(shapes, kinds, strict=True))


@st.composite
def rows(draw: st.DrawFn, least: int = 0) -> torch.Tensor:
    """Rows that are contiguous, whole or a part of others, of a free or fixed number."""
    row = draw(st.lists(st.integers(1, 4), min_size=least, max_size=3))
    wide = [row[0] + 2, *row[1:]] if row else [3]
    batch, dtype = draw(st.sampled_from(["batch", 1, 3])), draw(st.sampled_from([torch.float32, torch.bfloat16]))
    (x,) = fakes(((batch, *(wide if (part := draw(st.booleans())) else row)), dtype))
    if not part:
        return x
    return by_kernel(_aten.slice.Tensor, (x, 1, 1, row[0] + 1)) if row else by_kernel(_aten.select.int, (x, 1, 1))


def of_mode(x: torch.Tensor, *sizes: int) -> torch.Tensor:
    with x.fake_mode:
        return torch.empty(sizes, dtype=x.dtype)


def is_one_row(x: torch.Tensor) -> bool:
    """Whether there is one row, whatever the batch; torch keeps its distance to the next row in some results, and not in others."""
    return type(x.shape[0]) is int and x.shape[0] == 1


def dims_of(x: torch.Tensor, first: int = 1) -> st.SearchStrategy[int]:
    """Dimensions of a tensor from `first` on, counted from either end."""
    return st.integers(first, x.ndim - 1).flatmap(lambda dim: st.sampled_from([dim, dim - x.ndim]))


def check_quick(target: Any, args: tuple[Any, ...]) -> None:
    """Asserts that an operator has a quick value, equal to that of its kernel, which shares memory as the kernel's does and limits no
    size."""
    known = limits_of(args)
    quick = quick_value(target, args, {})
    assert quick is not None
    assert limits_of(args) == known
    want = by_kernel(target, args)
    assert facts(quick) == facts(want)
    assert quick.storage_offset() == want.storage_offset()
    memory = {t.untyped_storage()._cdata for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)}
    assert (quick.untyped_storage()._cdata in memory) == (want.untyped_storage()._cdata in memory)
