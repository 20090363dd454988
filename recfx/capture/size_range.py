"""The batch sizes that a program accepts: those at which its recorded sizes are true, up to the largest requested one.

Torch's fake kernels ask whether a size is one, to repeat it, and answer for the example. `x[-3:-2]` has one row if x has three or more, and
none otherwise; `x[-3:-2] * y` is then recorded with one row for every batch. The program accepts the batch sizes whose recorded sizes are
true, so that no pass works with a wrong one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from recfx.errors import VerificationError
from recfx.ir.program import ENDS_AT_LARGEST_BATCH, Program
from recfx.ir.propagate import compute
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names
from recfx.ir.true_sizes import has_clamped_size

Sizes = dict[sympy.Symbol, Any]

#: The largest batch by default. Traces go at least this far, so that a branch of forward on larger batches than the requested ones is seen.
MAX_BATCH = 65536
#: The largest number of batch sizes at which the sizes of a program are computed.
_MOST_TRIED = 32


def with_true_range(program: Program) -> Program:
    """The program with the batch sizes around the example's at which its recorded sizes are true.

    Only slices of the batch make sizes that differ between batch sizes in this way; other programs are returned at once.
    """
    if BATCH not in program.signature.dims:
        return program
    clamped = [node for node in program.graph.nodes if has_clamped_size(node.meta.get("val"))]
    if not clamped:
        return program
    known = _known_sizes(program)
    batch = _symbol_of_batch(program, known)
    if batch is None:
        return program
    low, high = program.signature.dims[BATCH]
    shown = max(int(known[batch]), 2)
    untrue = [
        rows for rows in _tried(clamped, low, high) if not _sizes_hold(program, {**known, batch: sympy.Integer(rows)})
    ]
    low = max([low, *(rows + 1 for rows in untrue if rows < shown)])
    above = [rows - 1 for rows in untrue if rows > shown]
    high = min([*above, *([] if high is None else [high])], default=None)
    dims = {**program.signature.dims, BATCH: (low, high)}
    program.signature = dataclasses.replace(program.signature, dims=dims)
    return program


def most_rows(dynamic_shapes: Any) -> int | None:
    """The largest batch in dynamic shapes that a user gave, in torch.export's form; None without a limit."""
    leaves: list[Any] = pytree.tree_leaves(dynamic_shapes)
    # Without a limit, `max` is torch's infinity of integers.
    limits = {dim.max for dim in leaves if getattr(dim, "__name__", None) == BATCH}
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def up_to(program: Program, most: int | None, *, traced: int | None) -> Program:
    """The program for at most `most` rows. It gets `ENDS_AT_LARGEST_BATCH` if the trace holds for fewer rows than it was made for.

    Args:
        program: The program.
        most: The largest requested batch; None without a limit.
        traced: The largest batch of the trace.
    """
    if BATCH not in program.signature.dims:
        return program
    low, high = program.signature.dims[BATCH]
    if high is not None and (traced is None or high < traced):
        program.properties |= {ENDS_AT_LARGEST_BATCH}
    high = min([n for n in (high, most) if n is not None], default=None)
    program.signature = dataclasses.replace(program.signature, dims={**program.signature.dims, BATCH: (low, high)})
    return program


def slices_of_batch(program: Program) -> list[fx.Node]:
    """The operators that take a number of rows from the batch, so that their result has fewer rows for a smaller batch."""

    def clamped(node: fx.Node) -> bool:
        return has_clamped_size(node.meta.get("val"))

    return [node for node in program.graph.nodes if clamped(node) and not any(map(clamped, node.all_input_nodes))]


def _tried(nodes: Iterable[fx.Node], low: int, high: int | None) -> list[int]:
    """Batch sizes around each number in the sizes of some operators; between two numbers all sizes behave alike."""
    sizes = [s for node in nodes for value in pytree.tree_leaves(node.meta["val"]) for s in getattr(value, "shape", ())]
    numbers = {abs(int(n)) for s in sizes if isinstance(s, torch.SymInt) for n in s.node.expr.atoms(sympy.Integer)}
    around = {1, 2, 3, *(n + step for n in numbers for step in (-1, 0, 1))}
    last = max(around) if high is None else high
    return sorted(rows for rows in {*around, last} if low <= rows <= last)[:_MOST_TRIED]


def _dynamic_sizes(program: Program) -> Iterator[tuple[sympy.Expr, int | str, int]]:
    """The dynamic sizes of the inputs: the expression, the size in the signature, and the size in the example."""
    for node, leaf, held in zip(program.placeholders(), program.signature.leaves, program.example, strict=True):
        recorded = getattr(node.meta.get("val"), "shape", ())
        for size, name, true in zip(recorded, leaf.shape, getattr(held, "shape", ()), strict=False):
            if isinstance(size, torch.SymInt):
                yield size.node.expr, name, true


def _known_sizes(program: Program) -> Sizes:
    """The sizes of the example by symbol. A symbol may occur only in multiples: `3*s` of an input with three rows for each bag."""
    found: Sizes = {}
    for expression, _, true in _dynamic_sizes(program):
        if len(expression.free_symbols) == 1:
            (symbol,) = expression.free_symbols
            solutions = [expression.xreplace({symbol: sympy.Integer(n)}) for n in (0, 1)]
            base, factor = solutions[0], solutions[1] - solutions[0]
            if factor.is_Integer and factor > 0 and (true - base) % factor == 0:
                found[symbol] = (true - base) // factor
    return found


def _symbol_of_batch(program: Program, known: Sizes) -> sympy.Symbol | None:
    """The symbol of the batch; None if no size of an input tells it, or the example does not tell every other size."""
    sizes = list(_dynamic_sizes(program))
    if any(not expression.free_symbols <= known.keys() for expression, _, _ in sizes):
        return None
    named = [e for e, name, _ in sizes if isinstance(name, str) and dimension_names(name) == [BATCH]]
    symbols = [symbol for expression in named for symbol in expression.free_symbols]
    return symbols[0] if len(set(symbols)) == 1 else None


def _sizes_hold(program: Program, sizes: Sizes) -> bool:
    """Whether every operator gives its recorded sizes where the inputs have the given sizes.

    Operators that refuse these sizes, and those behind them, are not compared: a call fails there.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(node.meta.get("val"), sizes, mode)
            continue
        if node.op == "output" or not values.keys() >= set(node.all_input_nodes):
            continue
        try:
            values[node] = compute(node, program.module, values.__getitem__, mode)
        except VerificationError:
            continue
        if not _agree(node.meta.get("val"), values[node], sizes):
            return False
    return True


def _placeholder(value: Any, sizes: Sizes, mode: FakeTensorMode) -> Any:
    if isinstance(value, torch.SymInt):
        return int(value.node.expr.xreplace(sizes))
    if not isinstance(value, torch.Tensor):
        return value
    shape = [s if isinstance(s, int) else int(s.node.expr.xreplace(sizes)) for s in value.shape]
    with mode:
        return torch.empty(shape, dtype=value.dtype, device=value.device)


def _agree(recorded: Any, found: Any, sizes: Sizes) -> bool:
    """Whether tensors have the recorded sizes. A size that depends on data is not compared."""
    if not isinstance(recorded, torch.Tensor) or not isinstance(found, torch.Tensor):
        return True
    if recorded.ndim != found.ndim:
        return False
    return all(_same(a, b, sizes) for a, b in zip(recorded.shape, found.shape, strict=True))


def _same(recorded: Any, found: Any, sizes: Sizes) -> bool:
    expected = sympy.Integer(recorded) if isinstance(recorded, int) else recorded.node.expr.xreplace(sizes)
    return not isinstance(found, int) or not expected.is_number or int(expected) == found
