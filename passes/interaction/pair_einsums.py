"""Products of two fields with a matrix between them, written as one einsum: batch-pairs reads them as two operators.

einsum("bd,de,be->be", x_i, W_ij, x_j) -> (x_i @ W_ij) * x_j
einsum("bd,de,be->b", x_i, W_ij, x_j)  -> ((x_i @ W_ij) * x_j).sum(1)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import ADDITIONS, JOINS, REGROUPINGS
from recfx.passes._match import only_user, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class MatrixEinsum:
    """x W y of rows x and y.

    Attributes:
        left: x, [B, K].
        weight: The read of W.
        turned: Whether W is [K, N], as in x @ W; otherwise [N, K].
        right: y, [B, N].
        summed: Whether the products are summed over N.
    """

    left: fx.Node
    weight: fx.Node
    turned: bool
    right: fx.Node
    summed: bool


def match_einsum(ctx: PassContext, node: fx.Node) -> MatrixEinsum | None:
    """The product at an einsum; None for other equations."""
    if node.target is not _aten.einsum.default or node.kwargs or len(node.args) != 2:
        return None
    inputs, arrow, output = str(node.args[0]).replace(" ", "").partition("->")
    given: Any = node.args[1]
    labels = inputs.split(",")
    if not arrow or "." in inputs or len(labels) != 3 or len(given) != 3:
        return None
    constant = [i for i, operand in enumerate(given) if ctx.tensor(operand) is not None]
    if len(constant) != 1 or any(len(set(own)) != 2 or len(own) != 2 for own in labels):
        return None
    (at,) = constant
    (first, second) = (i for i in range(3) if i != at)
    for left, right in ((first, second), (second, first)):
        row, inner, outer = labels[left][0], labels[left][1], labels[right][1]
        same_rows = labels[right][0] == row and len({row, inner, outer}) == 3
        if not same_rows or output not in (row + outer, row) or labels[at] not in (inner + outer, outer + inner):
            continue
        if all(held is not None and held.is_floating_point() for held in map(value, given)):
            return MatrixEinsum(given[left], given[at], labels[at] == inner + outer, given[right], output == row)
    return None


def is_part_of_pairs(node: fx.Node, at_least: int) -> bool:
    """Whether a join of as many parts, or an addition, reads a value, perhaps in another shape, and nothing else does."""
    user = only_user(node)
    while user is not None and user.target in REGROUPINGS:
        user = only_user(user)
    if user is None:
        return False
    parts: Any = user.args[0]
    return user.target in ADDITIONS or (user.target in JOINS and len(parts) >= at_least)


def write_out(ctx: PassContext, found: MatrixEinsum) -> fx.Node:
    """Inserts the product as a product with a matrix, one with a field, and a sum."""
    kind = _aten.matmul.default if found.turned else _aten.linear.default
    product = ctx.call(_aten.mul.Tensor, ctx.call(kind, found.left, found.weight), found.right)
    return ctx.call(_aten.sum.dim_IntList, product, [1]) if found.summed else product
