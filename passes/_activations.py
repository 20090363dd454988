"""Activations as they stand in a graph: single operators, x * sigmoid(x), and Dice with its batch norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recfx.passes._match import argument, same_shape, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
_RESHAPES = (_aten.reshape.default, _aten.view.default, _aten._unsafe_view.default, _aten.flatten.using_ints)


@dataclasses.dataclass(frozen=True, eq=False)
class Fresh:
    """A parameter that does not exist yet and is stored when the rewrite is made."""

    stem: str
    tensor: torch.Tensor


Param = fx.Node | Fresh


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """An activation found behind a value.

    Attributes:
        output: The node that holds the activated value.
        nodes: All nodes between the value and the output, the output included.
        name: A name of `recfx.ops.mlp.ACTIVATIONS`.
        slope: PReLU's slope, Dice's alpha.
        gate_scale: Dice's batch norm as a scale and a shift.
        gate_shift: The shift.
        number: Slope of leaky ReLU.
    """

    output: fx.Node
    nodes: frozenset[fx.Node]
    name: str
    slope: Param | None = None
    gate_scale: Param | None = None
    gate_shift: Param | None = None
    number: float = 0.0


_PLAIN = {
    _aten.relu.default: "relu",
    _aten.silu.default: "silu",
    _aten.sigmoid.default: "sigmoid",
    _aten.tanh.default: "tanh",
}


def match_activation(ctx: PassContext, x: fx.Node) -> Activation | Miss:
    """The activation that reads a value, or why there is none that an MLP layer may have."""
    if len(x.users) == 1:
        user = next(iter(x.users))
        found = _single(ctx, x, user)
        if found is not None:
            return found
    gated = _self_gated(x)
    if gated is not None:
        return gated
    return match_dice(ctx, x)


def _single(ctx: PassContext, x: fx.Node, node: fx.Node) -> Activation | Miss | None:
    """The one operator that reads x, when it is an activation."""
    if not node.args or node.args[0] is not x:
        return None
    nodes = frozenset({node})
    if node.target in _PLAIN:
        return Activation(node, nodes, _PLAIN[node.target])
    if node.target is _aten.gelu.default:
        tanh = node.kwargs.get("approximate", "none") == "tanh"
        return Activation(node, nodes, "gelu-tanh" if tanh else "gelu")
    if node.target is _aten.leaky_relu.default:
        return Activation(node, nodes, "leaky-relu", number=float(argument(node, 1, "negative_slope", 0.01)))
    if node.target in (_aten.clamp.default, _aten.clamp_min.default):
        if argument(node, 1, "min") == 0 and argument(node, 2, "max") is None:
            return Activation(node, nodes, "relu")
        return Miss("it clamps to another range than a ReLU", node)
    if node.target in (_aten.prelu.default, _aten._prelu_kernel.default):
        return _prelu(ctx, x, node)
    return None


def _prelu(ctx: PassContext, x: fx.Node, node: fx.Node) -> Activation | Miss:
    slope, held = ctx.tensor(node.args[1]), value(x)
    assert held is not None
    if slope is None:
        return Miss("PReLU's slope is computed", node)
    if slope.numel() != 1 and held.ndim != 2:
        return Miss("PReLU's slopes lie along the second dimension, not the last", node)
    read: Any = node.args[1]
    return Activation(node, frozenset({node}), "prelu", slope=flat(ctx, read))


def flat(ctx: PassContext, read: fx.Node) -> Param:
    """A constant as a vector: itself when it is one already."""
    tensor = ctx.tensor(read)
    assert tensor is not None
    return read if tensor.ndim == 1 else Fresh(f"{read.target}_flat", tensor.detach().reshape(-1))


def _self_gated(x: fx.Node) -> Activation | None:
    """x * sigmoid(x)."""
    for user in x.users:
        if user.target is not _aten.mul.Tensor:
            continue
        other = user.args[1] if user.args[0] is x else user.args[0]
        if isinstance(other, fx.Node) and other.target is _aten.sigmoid.default and other.args[0] is x:
            return Activation(user, frozenset({user, other}), "silu")
    return None


def match_dice(ctx: PassContext, x: fx.Node) -> Activation | Miss:
    """p * x + (1 - p) * alpha * x with p = sigmoid(batch_norm(x)), in any order of its products.

    For more than two dimensions the batch norm's channels must come to be the last dimension, by a reshape to rows or by a
    transposition there and back (`deepctr-torch`).
    """
    held = value(x)
    if held is None or not held.ndim or not isinstance(held.shape[-1], int):
        return Miss("its width varies", x)
    for total in _sums_over(x):
        for gated, passed in (total.args[:2], total.args[1::-1]):
            found = _dice_terms(ctx, x, gated, passed)
            if found is None:
                continue
            z, alpha, norm = found
            output = total if z is x else _transposed_back(total)
            inner = None if output is None else _between(x, output)
            if output is None or inner is None:
                continue
            scale, shift = norm
            stem = str(alpha.target).rpartition(".")[0]
            return Activation(
                output,
                inner,
                "dice",
                slope=flat(ctx, alpha),
                gate_scale=Fresh(f"{stem}.gate_scale" if stem else "gate_scale", scale),
                gate_shift=Fresh(f"{stem}.gate_shift" if stem else "gate_shift", shift),
            )
    readers = ", ".join(sorted({getattr(u.target, "__name__", str(u.target)) for u in x.users})) or "nothing"
    return Miss(f"what reads it is no activation of an MLP layer: {readers}", x)


_DICE_PARTS = {
    *_RESHAPES,
    _aten.transpose.int,
    _aten.batch_norm.default,
    _aten.sigmoid.default,
    _aten.rsub.Scalar,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.add.Tensor,
}
_REACH = 24  # nodes of a Dice with reshapes: 10


def _sums_over(x: fx.Node) -> Iterator[fx.Node]:
    """Sums that a Dice of x could end in, the nearest first."""
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


def _dice_terms(
    ctx: PassContext, x: fx.Node, gated: Any, passed: Any
) -> tuple[fx.Node, fx.Node, tuple[torch.Tensor, torch.Tensor]] | None:
    """(x or its transposition, alpha, the batch norm's scale and shift), when the two terms are those of a Dice."""
    first, second = _factors(gated, x), _factors(passed, x)
    z = next((f for f in first if _is_view_of(f, x)), None)
    if z is None or len(first) != 2 or len(second) != 3 or z not in second:
        return None
    gate = first[1] if first[0] is z else first[0]
    alpha = next((f for f in second if ctx.tensor(f) is not None), None)
    rest = [f for f in second if f is not z and f is not alpha]
    if alpha is None or len(rest) != 1 or not _is_one_minus(rest[0], gate):
        return None
    norm = _gate_norm(ctx, x, z, gate)
    if norm is None or not _lies_along_channels(ctx, alpha, len(norm[0]), last=z is x):
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
    if node is x:
        return True
    held = value(x)
    if node.target is not _aten.transpose.int or node.args[0] is not x or held is None or held.ndim != 3:
        return False
    dims: Any = node.args[1:3]
    return {d % 3 for d in dims} == {1, 2}


def _is_one_minus(node: fx.Node, gate: fx.Node) -> bool:
    if node.target is _aten.rsub.Scalar:
        return node.args[0] is gate and bool(node.args[1] == 1 and argument(node, 2, "alpha", 1) == 1)
    return node.target is _aten.sub.Tensor and node.args[:2] == (1, gate) and not node.kwargs


def _gate_norm(ctx: PassContext, x: fx.Node, z: fx.Node, gate: fx.Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The scale and shift of the gate's batch norm, float32 [C], when its channels are the last dimension of x."""
    sigmoid: Any = gate.args[0] if gate.target in _RESHAPES else gate
    if sigmoid.target is not _aten.sigmoid.default:
        return None
    norm: Any = sigmoid.args[0]
    source: Any = norm.args[0] if norm.target is _aten.batch_norm.default else None
    rows = source.args[0] if source is not None and source.target in _RESHAPES and source is not z else source
    a, b, c = value(x), value(source), value(gate)
    if rows is not z or a is None or b is None or c is None:
        return None
    if z is x and (b.ndim != 2 or b.shape[1] != a.shape[-1] or not same_shape(a, c)):
        return None  # channels elsewhere, or the gate has another shape than what it gates
    if z is not x and source is not z:
        return None
    return norm_affine(ctx, norm, int(a.shape[-1]))


def norm_affine(ctx: PassContext, norm: fx.Node, channels: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A batch norm in eval mode as scale and shift, float32 [C], computed in float64; None when it has no such form."""
    weight, bias, mean, var = (ctx.tensor(a) for a in norm.args[1:5])
    absent = (weight is None and norm.args[1] is not None) or (bias is None and norm.args[2] is not None)
    if argument(norm, 5, "training") is not False or mean is None or var is None or absent:
        return None
    if mean.numel() != channels or mean.dtype is not torch.float32:
        return None
    eps: Any = argument(norm, 7, "eps")
    scale = torch.rsqrt(var.detach().double() + eps)
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    if bias is not None:
        shift = shift + bias.detach().double()
    return scale.float(), shift.float()


def _lies_along_channels(ctx: PassContext, read: fx.Node, channels: int, *, last: bool) -> bool:
    """Whether a constant has one number for all, or one per channel, the channels being the last or the second dimension."""
    tensor = ctx.tensor(read)
    assert tensor is not None
    if tensor.dtype is not torch.float32:
        return False
    sizes = tuple(tensor.shape) if last else tuple(tensor.shape)[:-1]
    return tensor.numel() == 1 or (bool(sizes) and sizes[-1] == channels == tensor.numel())


def _transposed_back(total: fx.Node) -> fx.Node | None:
    user = next(iter(total.users)) if len(total.users) == 1 else None
    if user is None or user.target is not _aten.transpose.int:
        return None
    dims: Any = user.args[1:3]
    return user if {d % 3 for d in dims} == {1, 2} else None


def _between(x: fx.Node, output: fx.Node) -> frozenset[fx.Node] | None:
    """What is computed between x and the output; None when something else than x and constants enters."""
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
