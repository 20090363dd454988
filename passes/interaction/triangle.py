"""The entries that a node takes from the matrix of all dot products, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, turned, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
Entry = tuple[int, int]
Orders = tuple[bool, bool]


def triangle_of(entries: Sequence[Entry], features: int) -> Orders | None:
    """(with the diagonal, upper) if the entries are a triangle in row-major order; otherwise None.

    Dot products are symmetric, so (i, j) and (j, i) are the same entry.
    """
    wanted = [(min(e), max(e)) for e in entries]
    for diagonal in (False, True):
        lower = [(j, i) for i in range(features) for j in range(i + int(diagonal))]
        upper = [(i, j) for i in range(features) for j in range(i + int(not diagonal), features)]
        if wanted == lower:
            return diagonal, False
        if wanted == upper:
            return diagonal, True
    return None


def product_of(node: Any) -> fx.Node | Miss | None:
    """x [B, F, D] when a node is x x^T; a Miss for a product of two tensors, None for another operator."""
    if not isinstance(node, fx.Node) or node.target not in (*MATRIX_PRODUCTS, _aten.einsum.default):
        return None
    if node.target is _aten.einsum.default:
        x = _einsum_product(node)
    else:
        left: Any = node.args[0]
        right: Any = node.args[1]
        if turned(right) is left:
            x = left
        elif turned(left) is not None and turned(left) is right:
            return Miss("it multiplies columns, not rows", node)
        else:
            return Miss("the two factors are different tensors", node)
    held = value(x)
    if held is None or held.ndim != 3 or held.dtype is not torch.float32 or not isinstance(held.shape[1], int):
        return Miss("it is not a product of float32 vectors [B, F, D] with themselves", node)
    return x


def _einsum_product(node: fx.Node) -> fx.Node | None:
    """x of einsum("bid,bjd->bij", x, x), with any letters."""
    equation, operands = str(node.args[0]).replace(" ", ""), items_of(node, 1)
    inputs, _, output = equation.partition("->")
    parts = inputs.split(",")
    if len(parts) != 2 or operands[0] is not operands[1] or any(len(p) != 3 for p in (*parts, output)):
        return None
    (b, i, d), (b2, j, d2) = tuple(parts[0]), tuple(parts[1])
    if b != b2 or d != d2 or len({b, i, j, d}) != 4 or output not in (b + i + j, b + j + i):
        return None
    found: fx.Node = operands[0]
    return found


def entries_of(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, list[Entry]] | None:
    """(the matrix [B, F, F], the entries taken) of a node [B, n] that selects with constants; None for other nodes."""
    if node.target is _aten.index.Tensor:
        return _indexed(ctx, node)
    if node.target is _aten.index_select.default and argument(node, 1, "dim") in (1, -1):
        return _flat_entries(ctx, node.args[0], ctx.tensor(node.args[2]))
    if node.target is _aten.gather.default and argument(node, 1, "dim") in (1, -1):
        read: Any = node.args[2]
        read = read.args[0] if isinstance(read, fx.Node) and read.target is _aten.expand.default else read
        index = ctx.tensor(read)
        rows = index is not None and index.ndim == 2 and index.shape[0] == 1
        return _flat_entries(ctx, node.args[0], index[0] if rows and index is not None else None)
    if node.target is _aten.reshape.default:
        return _masked(ctx, node)
    if node.target is _aten.cat.default and argument(node, 1, "dim", 0) in (1, -1):
        return _rows_joined(node)
    return None


def _indexed(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, list[Entry]] | None:
    matrix: Any = node.args[0]
    indices: Any = node.args[1]
    held = value(matrix)
    if held is None or not indices or indices[0] is not None:
        return None
    constants = [c for c in (ctx.tensor(i) for i in indices[1:]) if c is not None]
    if len(constants) != len(indices) - 1:
        return None
    if len(constants) == 1 and constants[0].dtype is torch.bool:
        return _mask_entries(matrix, constants[0])
    if len(constants) == 1:
        return _flat_entries(ctx, matrix, constants[0])
    if len(constants) != 2 or held.ndim != 3 or any(c.ndim != 1 for c in constants):
        return None
    rows, columns = (_positions(c, held.shape[i + 1]) for i, c in enumerate(constants))
    return matrix, list(zip(rows, columns, strict=False))


def _positions(index: torch.Tensor, size: Any) -> list[int]:
    return [int(i) % size if isinstance(size, int) else int(i) for i in index.tolist()]


def _flat_entries(ctx: PassContext, flat: Any, index: torch.Tensor | None) -> tuple[fx.Node, list[Entry]] | None:
    """Entries by their position in the flattened matrix."""
    if index is None or index.ndim != 1 or index.dtype is torch.bool or flat.target is not _aten.reshape.default:
        return None
    matrix, shape = value(flat.args[0]), value(flat)
    if matrix is None or shape is None or matrix.ndim != 3 or shape.ndim != 2:
        return None
    size = matrix.shape[2]
    if not isinstance(size, int) or not same_size(shape.shape[0], matrix.shape[0]):
        return None
    return flat.args[0], [divmod(i, size) for i in _positions(index, shape.shape[1])]


def _mask_entries(matrix: Any, mask: torch.Tensor) -> tuple[fx.Node, list[Entry]] | None:
    if mask.dtype is not torch.bool or (mask.ndim != 2 and not (mask.ndim == 3 and mask.shape[0] == 1)):
        return None
    return matrix, [(int(i), int(j)) for i, j in mask.reshape(mask.shape[-2:]).nonzero().tolist()]


def _masked(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, list[Entry]] | None:
    """The entries of masked_select(matrix, constant mask), reshaped to [B, n]."""
    selected: Any = node.args[0]
    if not isinstance(selected, fx.Node) or selected.target is not _aten.masked_select.default:
        return None
    mask = ctx.tensor(selected.args[1])
    found = None if mask is None else _mask_entries(selected.args[0], mask)
    held, sizes = value(node), node.args[1]
    matrix = None if found is None else value(found[0])
    if found is None or matrix is None or held is None or held.ndim != 2 or not isinstance(sizes, list | tuple):
        return None
    count = len(found[1])
    first: Any = sizes[0]
    whole = isinstance(first, fx.Node) and same_size(first.meta.get("val"), matrix.shape[0])
    return found if sizes[1] == count or (sizes[1] == -1 and whole) else None


def _rows_joined(node: fx.Node) -> tuple[fx.Node, list[Entry]] | None:
    """The entries of a cat of parts of rows, matrix[:, i, a:b]."""
    parts: Any = node.args[0]
    matrix: fx.Node | None = None
    entries: list[Entry] = []
    for part in parts:
        start, end = 0, None
        row = part
        if part.target is _aten.slice.Tensor and argument(part, 1, "dim", 0) in (1, -1):
            start, end = argument(part, 2, "start") or 0, argument(part, 3, "end")
            row = part.args[0] if argument(part, 4, "step", 1) == 1 else part
        source, index = _row(row)
        held, taken = value(source), value(part)
        if held is None or taken is None or held.ndim != 3 or (matrix is not None and source is not matrix):
            return None
        length, size = taken.shape[-1], held.shape[2]
        if taken.ndim != 2 or not all(isinstance(v, int) for v in (length, size, start, index)) or end == 0:
            return None
        matrix = source
        first = start % size if start < 0 else start
        entries += [(index % held.shape[1], first + k) for k in range(length)]
    return None if matrix is None else (matrix, entries)


def _row(node: fx.Node) -> tuple[Any, Any]:
    """(matrix, i) of matrix[:, i]."""
    if node.target is _aten.select.int and node.args[1] in (1, -2):
        return node.args[0], node.args[2]
    inner: Any = node.args[0] if node.args else None
    if isinstance(inner, fx.Node) and inner.target is _aten.unbind.int and argument(inner, 1, "dim", 0) in (1, -2):
        return inner.args[0], node.args[1]
    return None, None
