"""Products of two tensors over one dimension, in all spellings, as operands and a result with a label for each dimension.

    (u * v).sum(-1)    vecdot(u, v)    u @ T.T    linear(u, T)    bmm(u, v)    einsum("bd,bcd->bc", u, v)

The dimension that is summed over has the label DOT; a broadcast dimension of size one has None. Views are followed backwards, so that a
lookup or a table behind unsqueezes and transposes gets labels as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.passes._match import argument, only_user, permutation, value
from recfx.pipeline import Miss

_aten = torch.ops.aten
DOT = "dot"

Labels = tuple[str | None, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor and the labels of its dimensions."""

    node: fx.Node
    labels: Labels


@dataclass(frozen=True)
class Product:
    """A product over one dimension.

    Attributes:
        left: One operand.
        right: The other.
        labels: The labels of the result.
        bias: A bias that is added to the last dimension of the result, as in `linear`; or None.
    """

    left: Operand
    right: Operand
    labels: Labels
    bias: fx.Node | None = None


#: Operators that may be such a product.
PRODUCTS = (
    _aten.sum.dim_IntList,
    _aten.linalg_vecdot.default,
    _aten.linear.default,
    *MATRIX_PRODUCTS,
    _aten.einsum.default,
)


def product_of(node: fx.Node) -> Product | Miss | None:
    """The product that an operator computes; a Miss for a product of another form, None for another operator."""
    if node.target is _aten.sum.dim_IntList:
        return _summed(node)
    if node.target is _aten.einsum.default:
        return _einsum(node)
    left, right = node.args[0], node.args[1]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    if node.target is _aten.linalg_vecdot.default:
        return _elementwise(node, left, right, argument(node, 2, "dim", -1), keep=False)
    held = value(left), value(right)
    if held[0] is None or held[1] is None:
        return None
    ranks = held[0].ndim, held[1].ndim
    if node.target is _aten.linear.default:
        free = tuple(f"{i}" for i in range(ranks[0] - 1))
        bias = argument(node, 2, "bias")
        return _labelled(left, (*free, DOT), right, ("column", DOT), (*free, "column"), bias)
    if min(ranks) < 2:
        return Miss("one side of the product is a vector")
    lead = [f"{i}" for i in range(max(ranks) - 2)]
    a, b = lead[len(lead) - ranks[0] + 2 :], lead[len(lead) - ranks[1] + 2 :]
    return _labelled(left, (*a, "row", DOT), right, (*b, DOT, "column"), (*lead, "row", "column"))


def _summed(node: fx.Node) -> Product | Miss | None:
    source, dims = node.args[0], node.args[1]
    if not isinstance(source, fx.Node) or source.target is not _aten.mul.Tensor:
        return None
    left, right = source.args[0], source.args[1]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    if not isinstance(dims, list | tuple) or len(dims) != 1 or node.kwargs.get("dtype") is not None:
        return Miss("it sums over several dimensions")
    if only_user(source) is None:
        return Miss("the product is read elsewhere as well", source)
    return _elementwise(source, left, right, dims[0], keep=bool(argument(node, 2, "keepdim", False)))


def _elementwise(like: fx.Node, left: fx.Node, right: fx.Node, dim: Any, *, keep: bool) -> Product | Miss | None:
    """An elementwise product of two tensors that broadcast, summed over one dimension."""
    a, b = value(left), value(right)
    if a is None or b is None or not a.ndim or not b.ndim:
        return None
    rank = max(a.ndim, b.ndim)
    at = int(dim) % rank
    labels: list[str | None] = [f"{i}" for i in range(rank)]
    labels[at] = DOT
    result = [None if i == at else label for i, label in enumerate(labels) if keep or i != at]
    if rank - at > min(a.ndim, b.ndim):
        return Miss("one side is broadcast over the columns", like)
    return _labelled(left, tuple(labels[rank - a.ndim :]), right, tuple(labels[rank - b.ndim :]), tuple(result))


def _einsum(node: fx.Node) -> Product | Miss | None:
    equation, operands = node.args[0], node.args[1]
    if not isinstance(operands, list | tuple) or len(operands) != 2:
        return Miss("it does not multiply two tensors")
    left, right = operands
    sides, _, result = str(equation).replace(" ", "").partition("->")
    a, _, b = sides.partition(",")
    summed = (set(a) | set(b)) - set(result)
    fits = "->" in str(equation) and "." not in sides and all(len(set(part)) == len(part) for part in (a, b, result))
    if not fits or len(summed) != 1 or not summed <= set(a) & set(b) or not set(result) <= set(a) | set(b):
        return Miss(f"{equation} is more than a product over one dimension")
    (dot,) = summed

    def named(part: str) -> Labels:
        return tuple(DOT if letter == dot else letter for letter in part)

    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    return _labelled(left, named(a), right, named(b), named(result))


def _labelled(
    left: fx.Node, a: Labels, right: fx.Node, b: Labels, result: Labels, bias: fx.Node | None = None
) -> Product | Miss:
    """A product whose dimensions of size one carry no label, as they may be broadcast."""
    first, second = _without_ones(left, a), _without_ones(right, b)
    sizes = [_sizes(operand).get(DOT) for operand in (first, second)]
    if sizes[0] is None or sizes[0] != sizes[1]:
        return Miss("one side is broadcast over the columns")
    known = {label for label in (*first.labels, *second.labels) if label is not None}
    return Product(first, second, tuple(label if label in known else None for label in result), bias)


def _sizes(operand: Operand) -> dict[str | None, str]:
    held = tensor_of(operand.node)
    return {label: str(size) for label, size in zip(operand.labels, held.shape, strict=True)}


def _without_ones(node: fx.Node, labels: Labels) -> Operand:
    held = tensor_of(node)
    return Operand(
        node,
        tuple(
            None if isinstance(size, int) and size == 1 and label != DOT else label
            for label, size in zip(labels, held.shape, strict=True)
        ),
    )


def sources(operand: Operand) -> list[Operand]:
    """An operand and the tensors behind its views, as long as the labels of their dimensions are known."""
    found = [operand]
    while (below := _below(found[-1])) is not None:
        found.append(below)
    return found


def _below(operand: Operand) -> Operand | None:
    """The tensor behind a view, with its labels; None if the node is not a view or a label is unknown."""
    node, labels = operand.node, list(operand.labels)
    source = node.args[0] if node.op == "call_function" and node.args else None
    held, own = value(source), value(node)
    if held is None or own is None or not isinstance(source, fx.Node):
        return None
    if node.target is _aten.unsqueeze.default:
        at = int(argument(node, 1, "dim")) % own.ndim
        if labels[at] is not None:
            return None
        del labels[at]
    elif node.target is _aten.squeeze.dim:
        at = int(argument(node, 1, "dim")) % held.ndim
        if own.ndim == held.ndim - 1:
            labels.insert(at, None)
    elif (order := permutation(node)) is not None:
        labels = [labels[order.index(i)] for i in range(own.ndim)]
    elif node.target is _aten.expand.default:
        widened = own.ndim - held.ndim
        labels = labels[widened:]
        for i, size in enumerate(held.shape):
            if isinstance(size, int) and size == 1:
                if labels[i] == DOT:
                    return None
                labels[i] = None
    else:
        return None
    return Operand(source, tuple(labels))
