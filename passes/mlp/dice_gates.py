"""Gates of Dice: the sigmoid of a norm of x, over the batch (its running statistics) or over each row, or of x itself.

    sigmoid(batch_norm(x))                                      deepctr-torch, the paper
    sigmoid((x - mean) / sqrt(sum((x - mean)^2 + eps)))         torch-rechub, over each row
    sigmoid(layer_norm(x)), sigmoid((x - mean) / sqrt(var + eps))
    sigmoid(x)                                                  RecBole

In a norm over rows, the value under the root is a * v + c, with v the mean of the squared deviations. The quotient is then
layer_norm(x, eps=c / a) / sqrt(a).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import fx

from recfx.passes._batchnorm import stored_affine
from recfx.passes._match import argument, same_shape, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """sigmoid(norm(x) * scale + shift).

    Attributes:
        scale: float32 [C].
        shift: float32 [C].
        eps: The epsilon of a norm over each row; None without such a norm.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    eps: float | None = None


def match_gate(ctx: PassContext, x: fx.Node, z: fx.Node, gate: fx.Node) -> Gate | None:
    """The gate of x (or of z, x with its channels transposed to the front) if its channels are the last dimension of x; or None."""
    sigmoid: Any = gate.args[0] if gate.target is _aten.reshape.default else gate
    if sigmoid.target is not _aten.sigmoid.default:
        return None
    norm: Any = sigmoid.args[0]
    if norm.target is _aten.batch_norm.default:
        return _batch_gate(ctx, x, z, gate, norm)
    held = value(x)
    if z is not x or sigmoid is not gate or held is None or held.dtype is not torch.float32:
        return None
    width = int(held.shape[-1])
    if norm is x:
        return Gate(torch.ones(width, dtype=torch.float32), torch.zeros(width, dtype=torch.float32))
    if norm.target is _aten.layer_norm.default and norm.args[0] is x:
        return _layer_norm_gate(ctx, norm, width)
    return _row_gate(norm, x, width)


def _batch_gate(ctx: PassContext, x: fx.Node, z: fx.Node, gate: fx.Node, norm: fx.Node) -> Gate | None:
    source: Any = norm.args[0]
    rows = source.args[0] if source.target is _aten.reshape.default and source is not z else source
    a, b, c = value(x), value(source), value(gate)
    if rows is not z or a is None or b is None or c is None:
        return None
    if z is x and (b.ndim != 2 or b.shape[1] != a.shape[-1] or not same_shape(a, c)):
        return None  # the channels are not the last dimension, or the gate has another shape than x
    if z is not x and source is not z:
        return None
    affine = norm_affine(ctx, norm, int(a.shape[-1]))
    return None if affine is None else Gate(*affine)


def _layer_norm_gate(ctx: PassContext, norm: fx.Node, width: int) -> Gate | None:
    vectors = []
    for index, name, absent in (
        (2, "weight", torch.ones(width, dtype=torch.float32)),
        (3, "bias", torch.zeros(width, dtype=torch.float32)),
    ):
        read = argument(norm, index, name)
        tensor = absent if read is None else ctx.tensor(read)
        if tensor is None or tuple(tensor.shape) != (width,) or tensor.dtype is not torch.float32:
            return None
        vectors.append(tensor.detach().clone())
    return Gate(vectors[0], vectors[1], float(argument(norm, 4, "eps", 1e-5))) if norm.args[1] == [width] else None


def _row_gate(node: fx.Node, x: fx.Node, width: int) -> Gate | None:
    """The gate of (x - mean) / sqrt(a * v + c), also written as a product with the reciprocal root."""
    if node.target is _aten.div.Tensor and len(node.args) == 2 and not node.kwargs:
        centred, root, function = *node.args, _aten.sqrt.default
    elif node.target is _aten.mul.Tensor:
        centred, root = node.args if _is_call(node.args[0], _aten.sub.Tensor) else node.args[::-1]
        function = _aten.rsqrt.default
    else:
        return None
    under: Any = _widened(root)
    if not _is_call(under, function) or not _is_centred(centred, x):
        return None
    found = _spread(under.args[0], x, width)
    if found is None or found[0] <= 0 or found[1] < 0 or not _is_one_column(root):
        return None
    scale, eps = 1 / math.sqrt(found[0]), found[1] / found[0]
    return Gate(torch.full((width,), scale, dtype=torch.float64).float(), torch.zeros(width, dtype=torch.float32), eps)


def _is_call(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is target


def _is_one_column(node: Any) -> bool:
    """Whether a value is [..., 1], so that it broadcasts against rows."""
    held = value(node)
    return held is not None and held.ndim > 1 and isinstance(held.shape[-1], int) and held.shape[-1] == 1


def _widened(node: Any) -> Any:
    """The value behind added last dimensions of size 1."""
    held = value(node)
    while held is not None and node.target is _aten.unsqueeze.default and node.args[1] in (-1, held.ndim - 1):
        node = node.args[0]
        held = value(node)
    return node


def _over_last(node: Any, target: Any, source: Any = None) -> bool:
    """Whether a node reduces the last dimension alone, of `source` if it is given."""
    if not _is_call(node, target) or node.kwargs.get("dtype") is not None:
        return False
    held, dims = value(node.args[0]), argument(node, 1, "dim")
    if held is None or not isinstance(dims, list | tuple) or len(dims) != 1 or dims[0] % held.ndim != held.ndim - 1:
        return False
    return source is None or node.args[0] is source


def _is_centred(node: Any, x: fx.Node) -> bool:
    """Whether a node is x minus the mean of its row."""
    if not _is_call(node, _aten.sub.Tensor) or node.kwargs or node.args[0] is not x:
        return False
    mean = node.args[1]
    return _is_one_column(mean) and _over_last(_widened(mean), _aten.mean.dim, x)


def _is_squares(node: Any, x: fx.Node) -> bool:
    """Whether a node is the squared deviations of x from the mean of its row."""
    if not isinstance(node, fx.Node):
        return False
    product = node.target is _aten.mul.Tensor and node.args[0] is node.args[1]
    return (product or node.target is _aten.square.default) and _is_centred(node.args[0], x)


def _number(node: fx.Node) -> float | None:
    """The number in an addition of a tensor and a number; None for another node."""
    if node.target is _aten.add.Tensor and not node.kwargs and len(node.args) == 2:
        return next((float(a) for a in node.args if isinstance(a, int | float)), None)
    return None


def _spread(node: Any, x: fx.Node, width: int) -> tuple[float, float] | None:
    """(a, c) of a node that is a * v + c for each row, with v the mean of the squared deviations; None for another node."""
    node = _widened(node)
    number = _number(node) if isinstance(node, fx.Node) else None
    if number is not None:
        inner = _spread(next(a for a in node.args if isinstance(a, fx.Node)), x, width)
        return None if inner is None else (inner[0], inner[1] + number)
    if _over_last(node, _aten.var.correction, x) or _over_last(node, _aten.var.dim, x):
        by_flag = node.target is _aten.var.dim
        correction: Any = int(argument(node, 2, "unbiased", True)) if by_flag else node.kwargs.get("correction", 1)
        return None if correction is None or width <= correction else (width / (width - correction), 0.0)
    summed = _over_last(node, _aten.sum.dim_IntList)
    if not summed and not _over_last(node, _aten.mean.dim):
        return None
    times = float(width) if summed else 1.0
    squares = node.args[0]
    added = _number(squares)
    if added is not None:
        squares = next(a for a in squares.args if isinstance(a, fx.Node))
    return (times, times * (added or 0.0)) if _is_squares(squares, x) else None


def norm_affine(ctx: PassContext, norm: fx.Node, channels: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A batch norm in eval mode as scale and shift, float32 [C], computed in float64; None for other channels or in training mode."""
    found = stored_affine(ctx, norm)
    mean = ctx.tensor(norm.args[3])
    if isinstance(found, Miss) or mean is None or mean.numel() != channels or mean.dtype is not torch.float32:
        return None
    return found.scale.float(), found.shift.float()
