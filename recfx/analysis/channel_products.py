"""How labels of channels travel through products, attention and convolutions."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from torch import fx

from recfx.analysis.channel_axes import Axis, fixed, flat, vectors
from recfx.analysis.channel_labels import Vector
from recfx.analysis.channel_walk import Axes, Read, Result, Rule, Walk, argument, fixed_result, sizes_of
from recfx.ir.op_sets import ADDED_PRODUCTS


def contract(walk: Walk, node: fx.Node, operands: Sequence[Any], terms: Sequence[str], out: str) -> Axes:
    """The axes of a sum of products, written as in `einsum`.

    Args:
        walk: The walk.
        node: The operator.
        operands: The tensors.
        terms: A letter for each axis of each tensor. Axes with one letter are tied, unless they have size one.
        out: The letters of the result. Other letters are summed.
    """
    of_letter: dict[str, Any] = {}
    for operand, term in zip(operands, terms, strict=True):
        for letter, axis in zip(term, walk.axes_of(operand), strict=True):
            if axis == ():
                of_letter.setdefault(letter, ())
            elif of_letter.get(letter, ()) == ():
                of_letter[letter] = axis
            else:
                walk.tie(node, of_letter[letter], axis)
    for operand, term in zip(operands, terms, strict=True):
        for position, letter in enumerate(term):
            if letter not in out:
                walk.reduce(node, operand, position, Read.SUM)
    return [of_letter[letter] for letter in out]


def _letters(rank: int) -> str:
    return string.ascii_uppercase[26 - rank :]


def linear(walk: Walk, node: fx.Node) -> Result:
    x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    lead = _letters(len(walk.axes_of(x)) - 1)
    if len(walk.axes_of(weight)) == 1:
        return contract(walk, node, [x, weight], [lead + "k", "k"], lead)
    found = contract(walk, node, [x, weight], [lead + "k", "nk"], lead + "n")
    if bias is not None:
        walk.tie(node, found[-1], walk.axes_of(bias)[0])
    return found


def matmul(walk: Walk, node: fx.Node) -> Result:
    added = node.target in ADDED_PRODUCTS
    left, right = node.args[1:3] if added else node.args[:2]
    ranks = len(walk.axes_of(left)), len(walk.axes_of(right))
    stacks = [_letters(max(rank - 2, 0)) for rank in ranks]
    terms = [stacks[0] + "mk"[-min(ranks[0], 2) :], stacks[1] + ("kn" if ranks[1] > 1 else "k")]
    out = max(stacks, key=len) + ("m" if ranks[0] > 1 else "") + ("n" if ranks[1] > 1 else "")
    found = contract(walk, node, [left, right], terms, out)
    if added:
        bias = walk.axes_of(node.args[0])
        for axis, of_bias in zip(found[len(found) - len(bias) :], bias, strict=True):
            if of_bias:
                walk.tie(node, axis, of_bias)
    return found


def einsum(walk: Walk, node: fx.Node) -> Result:
    equation: Any = node.args[0]
    operands: Any = node.args[1]
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        out = "".join(sorted(letter for letter in set(inputs) - {","} if inputs.count(letter) == 1))
    if "." in equation or any(len(set(term)) < len(term) for term in terms):
        return unknown(walk, node, "its equation has an ellipsis or takes a diagonal")
    return contract(walk, node, operands, terms, out)


def tensordot(walk: Walk, node: fx.Node) -> Result:
    operands: Any = node.args[:2]
    dims: Any = node.args[2:4]
    ranks = [len(walk.axes_of(operand)) for operand in operands]
    names = iter(string.ascii_letters)
    terms = [[next(names) for _ in range(rank)] for rank in ranks]
    for left, right in zip(*dims, strict=True):
        terms[1][right % ranks[1]] = terms[0][left % ranks[0]]
    out = [letter for term, other in (terms, terms[::-1]) for letter in term if letter not in other]
    return contract(walk, node, operands, ["".join(term) for term in terms], "".join(out))


def bilinear(walk: Walk, node: fx.Node) -> Result:
    x, y, weight = node.args[:3]
    bias = argument(node, 3, "bias")
    lead = _letters(len(walk.axes_of(x)) - 1)
    found = contract(walk, node, [x, y, weight], [lead + "i", lead + "j", "nij"], lead + "n")
    if bias is not None:
        walk.tie(node, found[-1], walk.axes_of(bias)[0])
    return found


def attention(walk: Walk, node: fx.Node) -> Result:
    """Scaled dot product attention. The scale, which depends on the size of the queries, is kept by who removes their channels."""
    queries, keys, values = node.args[:3]
    mask = argument(node, 3, "attn_mask")
    if node.kwargs.get("enable_gqa"):
        return unknown(walk, node, "its queries share keys")
    terms = [_letters(len(walk.axes_of(operand)) - 2) + ending for operand, ending in ((queries, "le"), (keys, "se"))]
    terms.append(_letters(len(walk.axes_of(values)) - 2) + "sf")
    out = _letters(len(sizes_of(node)) - 2) + "lf"
    found = contract(walk, node, [queries, keys, values], terms, out)
    for operand in (keys, values):
        walk.reduce(node, operand, len(walk.axes_of(operand)) - 2, Read.COUNT)
    if mask is not None:
        allowed = walk.axes_of(mask)
        like = [*found[:-1], walk.axes_of(keys)[-2]]
        for axis, of_mask in zip(like[len(like) - len(allowed) :], allowed, strict=True):
            if of_mask:
                walk.tie(node, axis, of_mask)
    if argument(node, 5, "is_causal", False):
        walk.pin(node, [found[-2], walk.axes_of(keys)[-2]], "it masks later positions")
    return found


def convolution(walk: Walk, node: fx.Node) -> Result:
    """Convolutions: channels are contracted, positions stay. With groups, a channel is a pair of a group and a place in it."""
    x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    axes, kernel = walk.axes_of(x), walk.axes_of(weight)
    channel = len(axes) - len(kernel) + 1
    groups: Any = argument(node, 6, "groups", 1)
    walk.pin(node, axes[channel + 1 :], "it reads neighbouring positions")
    for positions in vectors(kernel[2:]):
        walk.labels.pin(positions)
    if groups == 1:
        walk.tie(node, axes[channel], kernel[1])
        walk.reduce(node, x, channel, Read.SUM)
        walk.reduce(node, weight, 1, Read.SUM)
    elif not _tie_groups(walk, node, axes[channel], kernel, groups):
        return unknown(walk, node, "it has too many channels in groups")
    if bias is not None:
        walk.tie(node, kernel[0], walk.axes_of(bias)[0])
    sizes = sizes_of(node)
    return [*axes[:channel], kernel[0], *map(fixed, sizes[channel + 1 :])]


def _tie_groups(walk: Walk, node: fx.Node, channels: Axis, kernel: Axes, groups: int) -> bool:
    """Ties input channels [groups * K] and kernels [groups * N, K]: all groups lose the same places, and a group is lost as a whole.

    Returns False if there are too many channels to have labels.
    """
    inputs, outputs = flat(walk.labels, channels), flat(walk.labels, kernel[0])
    if inputs is None or outputs is None:
        return False
    outer, inner = _by_group(walk, inputs, groups)
    of_outputs, _ = _by_group(walk, outputs, groups)
    walk.tie(node, (outer,), (of_outputs,))
    if inner is not None:
        walk.tie(node, (inner,), kernel[1])
        walk.reduce(node, node.args[1], 1, Read.SUM)
    return True


def _by_group(walk: Walk, labels: Vector, groups: int) -> tuple[Vector, Vector | None]:
    """The labels of groups and of places in them; no places if a group has a single one."""
    return (labels, None) if len(labels) == groups else walk.labels.divide(labels, groups)


def unknown(walk: Walk, node: fx.Node, reason: str) -> Result:
    """An operator that is not followed: all places of its operands and of its result stay."""
    for operand in node.all_input_nodes:
        axes = walk.axes(operand)
        if axes is not None:
            walk.pin(node, axes, reason)
    return fixed_result(node)


#: Rule for each operator, by its name in `torch.ops.aten`.
PRODUCTS: dict[str, Rule] = {
    "linear": linear,
    "matmul bmm mm mv dot addmm baddbmm": matmul,
    "einsum": einsum,
    "tensordot": tensordot,
    "bilinear": bilinear,
    "scaled_dot_product_attention": attention,
    "conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding": convolution,
}
