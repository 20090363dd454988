"""One spelling for each operator: the rules of canonicalize that replace an operator by an equal one.

    multiply, subtract, divide, true_divide, concat, clip, absolute, greater, ... -> mul, sub, div, cat, clamp, abs, gt, ...
    view, _unsafe_view, view_as, reshape_as, flatten, unflatten                   -> reshape
    t, mT, mH, adjoint, numpy_T, transpose, swapaxes, swapdims, movedim, moveaxis -> permute
    permute(permute(x, a), b)                                                     -> permute(x, c)
    pow(x, 2)                                                                     -> square(x)
    rsub(x, y)                                                                    -> sub(y, x)
    hstack, vstack, dstack, column_stack                                          -> cat
    narrow(x, d, start, length)                                                   -> slice(x, d, start, start + length)
    linalg_norm(x, p, [d])                                                        -> linalg_vector_norm(x, p, [d])
    pairwise_distance(x, y, p, eps)                                               -> linalg_vector_norm(x - y + eps, p, [-1])
    sum(x, d, dtype), mean(x, d, dtype) of integers or masks                      -> sum(to(x, dtype), d), mean(to(x, dtype), d)

All are exact: torch computes the left side by the right side, or both give the same view. `view` refuses strides for which `reshape`
copies, but the strides of a captured view are possible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of, tensor_of
from recfx.ir.op_sets import PERMUTATIONS, POOLINGS
from recfx.passes._match import argument, permutation, same_layout
from recfx.passes.clean.aliases import ALIASES
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten

_FLATTENED = (_aten.flatten.using_ints, _aten.unflatten.int, _aten.view_as.default, _aten.reshape_as.default)
_RENAMED = (_aten.view.default, _aten._unsafe_view.default)
#: Operators that put dimensions in another order, without `permute`.
_PERMUTES = tuple(target for target in PERMUTATIONS if target is not _aten.permute.default)

#: Joins of tensors of at least this many dimensions are a concatenation along this dimension.
_STACKS: dict[Any, tuple[int, int]] = {
    _aten.hstack.default: (2, 1),
    _aten.vstack.default: (2, 0),
    _aten.row_stack.default: (2, 0),
    _aten.dstack.default: (3, 2),
    _aten.column_stack.default: (2, 1),
}


def _alias(node: fx.Node, ctx: PassContext) -> Any:
    return _if_same(node, ctx.call(ALIASES[node.target], *node.args, **node.kwargs))


def _if_same(node: fx.Node, new: fx.Node) -> fx.Node | Miss:
    """The new spelling of a node; a Miss if its fake value differs from that of the node."""
    if same_layout(tensor_of(new), tensor_of(node)):
        return new
    return Miss("its canonical spelling gives another dtype, shape or strides")


def _reshape(node: fx.Node, ctx: PassContext) -> Any:
    if node.target in _RENAMED:
        return _if_same(node, ctx.call(_aten.reshape.default, node.args[0], argument(node, 1, "size")))
    sizes = _sizes(node, ctx)
    if sizes is None:
        return Miss("a size is a product of sizes that the graph does not compute")
    return _if_same(node, ctx.call(_aten.reshape.default, node.args[0], sizes))


def _sizes(node: fx.Node, ctx: PassContext) -> list[Any] | None:
    """The sizes of a flattened or unflattened tensor: -1 for a single free size; several are read from the graph."""
    sizes: list[Any] = list(tensor_of(node).shape)
    varying = [d for d, size in enumerate(sizes) if not isinstance(size, int)]
    if len(varying) == 1 and 0 not in sizes:
        sizes[varying[0]] = -1
        return sizes
    for d in varying:
        read = _size_of(node, d, ctx)
        if read is None:
            return None
        sizes[d] = read
    return sizes


def _size_of(node: fx.Node, dim: int, ctx: PassContext) -> Any:
    """A size of the result, as an argument for `reshape`; None if it is a product of sizes."""
    source = argument_of(node, 0, fx.Node)
    if node.target in (_aten.view_as.default, _aten.reshape_as.default):
        return ctx.call(_aten.sym_size.int, node.args[1], dim)
    rank = tensor_of(source).ndim
    if node.target is _aten.flatten.using_ints:
        first, last = (
            argument(node, i, name, default) % rank for i, name, default in ((1, "start_dim", 0), (2, "end_dim", -1))
        )
        if first == dim and first != last:
            return None
        return ctx.call(_aten.sym_size.int, source, dim if dim <= first else dim + last - first)
    opened, given = argument_of(node, 1, int) % rank, items_of(node, 2)
    if opened <= dim < opened + len(given):
        return given[dim - opened]
    return ctx.call(_aten.sym_size.int, source, dim if dim < opened else dim - len(given) + 1)


def _permute(node: fx.Node, ctx: PassContext) -> Any:
    order = permutation(node)
    if order is None:
        return None
    if order == list(range(len(order))):
        return node.args[0]
    return _if_same(node, ctx.call(_aten.permute.default, node.args[0], order))


def _permute_of_permute(node: fx.Node, ctx: PassContext) -> Any:
    outer, inner = permutation(node), permutation(node.args[0])
    if outer is None or inner is None:
        return None
    source = argument_of(argument_of(node, 0, fx.Node), 0, fx.Node)
    order = [inner[d] for d in outer]
    if order == list(range(len(order))):
        return source
    return _if_same(node, ctx.call(_aten.permute.default, source, order))


def _square(node: fx.Node, ctx: PassContext) -> Any:
    exponent = argument(node, 1, "exponent")
    if type(exponent) not in (int, float) or exponent != 2:
        return None
    return _if_same(node, ctx.call(_aten.square.default, node.args[0]))


def _difference(node: fx.Node, ctx: PassContext) -> Any:
    return _if_same(node, ctx.call(_aten.sub.Tensor, node.args[1], node.args[0], **_alpha(node)))


def _alpha(node: fx.Node) -> dict[str, Any]:
    alpha = argument(node, 2, "alpha", 1)
    return {} if alpha == 1 else {"alpha": alpha}


def _concatenation(node: fx.Node, ctx: PassContext) -> Any:
    least, dim = _STACKS[node.target]
    parts = items_of(node, 0)
    if any(tensor_of(part).ndim < least for part in parts):
        return None
    return _if_same(node, ctx.call(_aten.cat.default, parts, dim))


def _slice(node: fx.Node, ctx: PassContext) -> Any:
    dim, start, length = node.args[1:4]
    size = tensor_of(node.args[0]).shape[argument_of(node, 1, int)]
    if not all(isinstance(n, int) for n in (start, length, size)):
        return None
    first = argument_of(node, 2, int) % max(int(size), 1) if start != size else int(size)
    return _if_same(node, ctx.call(_aten.slice.Tensor, node.args[0], dim, first, first + argument_of(node, 3, int)))


def _vector_norm(node: fx.Node, ctx: PassContext) -> Any:
    order, dims = argument(node, 1, "ord"), argument(node, 2, "dim")
    if not isinstance(dims, list | tuple) or len(dims) != 1 or node.kwargs.get("dtype") is not None:
        return Miss("it is a norm of a matrix, or of all elements, or in another dtype")
    kept = argument(node, 3, "keepdim", False)
    norm = (node.args[0], 2 if order is None else order, list(dims), kept)
    return _if_same(node, ctx.call(_aten.linalg_vector_norm.default, *norm))


def _distance(node: fx.Node, ctx: PassContext) -> Any:
    difference = ctx.call(_aten.sub.Tensor, node.args[0], node.args[1])
    apart = ctx.call(_aten.add.Tensor, difference, argument(node, 3, "eps", 1e-6))
    norm = (apart, argument(node, 2, "p", 2), [-1], argument(node, 4, "keepdim", False))
    return _if_same(node, ctx.call(_aten.linalg_vector_norm.default, *norm))


def _sum_of_converted(node: fx.Node, ctx: PassContext) -> Any:
    """A sum of a mask or of integers as floating-point numbers, such as the number of items of a history."""
    dtype = node.kwargs.get("dtype")
    if dtype is None or tensor_of(node.args[0]).is_floating_point():
        return None
    converted = ctx.call(_aten.to.dtype, node.args[0], dtype)
    return _if_same(node, ctx.call(node.target, converted, *node.args[1:]))


#: (name, targets, rule) for each spelling. Permutations are joined first, so that two inverse ones disappear.
SPELLINGS: tuple[tuple[str, tuple[Any, ...], Any], ...] = (
    ("permute-of-permute", PERMUTATIONS, _permute_of_permute),
    ("alias", tuple(ALIASES), _alias),
    ("spell-reshape", (*_RENAMED, *_FLATTENED), _reshape),
    ("spell-permute", _PERMUTES, _permute),
    ("spell-square", (_aten.pow.Tensor_Scalar,), _square),
    ("spell-difference", (_aten.rsub.Tensor,), _difference),
    ("spell-concatenation", tuple(_STACKS), _concatenation),
    ("spell-slice", (_aten.narrow.default,), _slice),
    ("spell-norm", (_aten.linalg_norm.default,), _vector_norm),
    ("spell-distance", (_aten.pairwise_distance.default,), _distance),
    ("spell-sum", POOLINGS, _sum_of_converted),
)
