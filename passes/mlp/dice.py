"""The spellings of Dice (Zhou et al. 2018, DIN) in models: p * x + (1 - p) * alpha * x, with a gate p computed from x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import ADDITIONS
from recfx.passes._match import argument, permutation, turned, value
from recfx.passes.mlp.dice_gates import Gate, match_gate
from recfx.passes.mlp.parameters import Activation, Fresh, flat
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


def match_dice(ctx: PassContext, x: fx.Node) -> Activation | Miss:
    """p * x + (1 - p) * alpha * x with p the sigmoid of a norm of x, in any order of the products; see `dice_gates` for the norms.

    For more than two dimensions, a reshape to rows, or a transposition and its inverse (`deepctr-torch`), must make the last dimension
    the channels of the batch norm.
    """
    held = value(x)
    if held is None or not held.ndim or not isinstance(held.shape[-1], int):
        return Miss("its width varies", x)
    for total in _sums_over(x):
        for gated, passed in (total.args[:2], total.args[1::-1]):
            found = _dice_terms(ctx, x, gated, passed)
            if found is None:
                continue
            z, alpha, gate = found
            output = total if z is x else _transposed_back(total)
            inner = None if output is None else _between(x, output)
            if output is None or inner is None:
                continue
            return _activation(ctx, output, inner, alpha, gate)
    readers = ", ".join(sorted({getattr(u.target, "__name__", str(u.target)) for u in x.users})) or "nothing"
    return Miss(f"its readers are not an activation of an MLP layer: {readers}", x)


def _activation(ctx: PassContext, output: fx.Node, nodes: frozenset[fx.Node], alpha: fx.Node, gate: Gate) -> Activation:
    stem = str(alpha.target).rpartition(".")[0]
    stem = f"{stem}." if stem else ""
    return Activation(
        output,
        nodes,
        "dice" if gate.eps is None else "row-dice",
        slope=flat(ctx, alpha),
        gate_scale=Fresh(f"{stem}gate_scale", gate.scale),
        gate_shift=Fresh(f"{stem}gate_shift", gate.shift),
        number=gate.eps or 0.0,
    )


_DICE_PARTS = {
    _aten.reshape.default,
    _aten.permute.default,
    _aten.batch_norm.default,
    _aten.layer_norm.default,
    _aten.sigmoid.default,
    _aten.rsub.Scalar,
    _aten.mul.Tensor,
    *ADDITIONS,
}
_REACH = 24  # most nodes to search; a Dice with reshapes has 10


def _sums_over(x: fx.Node) -> Iterator[fx.Node]:
    """The sums that may be the result of a Dice of x, the nearest first."""
    seen, frontier = {x}, [x]
    while frontier and len(seen) < _REACH:
        for user in frontier.pop(0).users:
            if user in seen or user.target not in _DICE_PARTS:
                continue
            seen.add(user)
            if user.target is not _aten.add.Tensor:
                frontier.append(user)
            elif user.kwargs.get("alpha", 1) == 1:
                yield user


def _dice_terms(ctx: PassContext, x: fx.Node, gated: Any, passed: Any) -> tuple[fx.Node, fx.Node, Gate] | None:
    """(x or its transposition, alpha, the gate) if the two terms are those of a Dice; otherwise None."""
    first, second = _factors(gated, x), _factors(passed, x)
    z = next((f for f in first if _is_view_of(f, x)), None)
    if z is None or len(first) != 2 or len(second) != 3 or z not in second:
        return None
    gate = first[1] if first[0] is z else first[0]
    alpha = next((f for f in second if ctx.tensor(f) is not None), None)
    rest = [f for f in second if f is not z and f is not alpha]
    if alpha is None or len(rest) != 1 or not _is_one_minus(rest[0], gate):
        return None
    norm = match_gate(ctx, x, z, gate)
    if norm is None or not _lies_along_channels(ctx, alpha, len(norm.scale), last=z is x):
        return None
    return z, alpha, norm


def _factors(node: Any, x: fx.Node) -> list[fx.Node]:
    """The factors of a product of nodes."""
    if not isinstance(node, fx.Node):
        return []
    if node.target is _aten.mul.Tensor and node is not x:
        return _factors(node.args[0], x) + _factors(node.args[1], x)
    return [node]


def _is_view_of(node: fx.Node, x: fx.Node) -> bool:
    """Whether a node is x, or x with its last two of three dimensions exchanged."""
    held = value(x)
    return node is x or (turned(node) is x and held is not None and held.ndim == 3)


def _is_one_minus(node: fx.Node, gate: fx.Node) -> bool:
    if node.target is _aten.rsub.Scalar:
        return node.args[0] is gate and bool(node.args[1] == 1 and argument(node, 2, "alpha", 1) == 1)
    return node.target is _aten.sub.Tensor and node.args[:2] == (1, gate) and not node.kwargs


def _lies_along_channels(ctx: PassContext, read: fx.Node, channels: int, *, last: bool) -> bool:
    """Whether a constant has one element, or one per channel along the last dimension (`last`) or the second."""
    tensor = ctx.stored(read)
    if tensor.dtype is not torch.float32:
        return False
    sizes = tuple(tensor.shape) if last else tuple(tensor.shape)[:-1]
    return tensor.numel() == 1 or (bool(sizes) and sizes[-1] == channels == tensor.numel())


def _transposed_back(total: fx.Node) -> fx.Node | None:
    user = next(iter(total.users)) if len(total.users) == 1 else None
    return user if permutation(user) == [0, 2, 1] else None


def _between(x: fx.Node, output: fx.Node) -> frozenset[fx.Node] | None:
    """The nodes between x and the output; None if they read anything but x and constants."""
    nodes: set[fx.Node] = set()
    pending = [output]
    while pending:
        node = pending.pop()
        if node is x or node in nodes or node.op == "get_attr" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        if node.op != "call_function":
            return None
        nodes.add(node)
        pending += node.all_input_nodes
    return frozenset(nodes)
