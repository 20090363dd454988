"""Chains of linears with the operators between them, as `fuse-mlp` and `fuse-target-attention` match and emit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ops.mlp import Layer, encode
from recfx.passes._match import argument, is_eval_dropout, only_user, same_shape, value
from recfx.passes.mlp.activations import match_activation
from recfx.passes.mlp.parameters import Fresh, Param
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
LINEARS = (_aten.linear.default, _aten.addmm.default, _aten.mm.default, _aten.matmul.default)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One layer, with its parameters as nodes or new tensors; the fields are those of `recfx.ops.mlp.Layer`."""

    weight: Param
    bias: Param | None = None
    activation: str = "none"
    slope: Param | None = None
    gate_scale: Param | None = None
    gate_shift: Param | None = None
    norm_weight: Param | None = None
    norm_bias: Param | None = None
    norm: bool = False
    residual: int = -1
    norm_eps: float = 1e-5
    number: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """A chain up to a node.

    Attributes:
        source: The input of the first linear.
        steps: The layers.
        nodes: All nodes of the chain, the output included.
        output: The node that holds its result.
        ended: Why it ends there.
    """

    source: fx.Node
    steps: tuple[Step, ...]
    nodes: frozenset[fx.Node]
    output: fx.Node
    ended: Miss | None = None

    @property
    def closed(self) -> bool:
        """Whether only the output has users outside the chain."""
        return all(user in self.nodes for node in self.nodes if node is not self.output for user in node.users)


def match_chain(ctx: PassContext, head: fx.Node, *, last_width: int | None = None) -> Chain | Miss:
    """The longest chain from a linear on of which only the output has users outside.

    Args:
        ctx: The pass context.
        head: A linear, or a product with a constant matrix.
        last_width: The chain must end in a linear of this width, without an activation.
    """
    first = _linear_step(ctx, head)
    if isinstance(first, Miss):
        return first
    prefixes, ended = _prefixes(ctx, head, first)
    if last_width is not None:
        prefixes = [p for p in prefixes if _is_bare(p.steps[-1]) and _width(ctx, p.steps[-1].weight) == last_width]
    closed = [p for p in prefixes if p.closed]
    if not closed:
        return Miss("its result is not a single column, or parts of the chain are read elsewhere", head)
    longest = closed[-1]
    if longest is not prefixes[-1]:
        ended = Miss("values of the chain are read elsewhere as well", longest.output)
    return dataclasses.replace(longest, ended=ended)


def _prefixes(ctx: PassContext, head: fx.Node, first: Step) -> tuple[list[Chain], Miss]:
    """All chains from the first linear on, shortest first, and why the longest ends."""
    source: Any = _source(head)
    values = [source]
    chains = [Chain(source, (first,), frozenset({head}), head)]
    while True:
        refused = _finish_layer(ctx, chains, values)
        values.append(chains[-1].output)
        following = [u for u in chains[-1].output.users if u.target in LINEARS and _source(u) is chains[-1].output]
        if len(following) != 1:
            return chains, refused if not following else Miss("several linears read it", chains[-1].output)
        step = _linear_step(ctx, following[0])
        if isinstance(step, Miss):
            return chains, step
        last = chains[-1]
        chains.append(Chain(source, (*last.steps, step), last.nodes | {following[0]}, following[0]))


def _finish_layer(ctx: PassContext, chains: list[Chain], values: Sequence[fx.Node]) -> Miss:
    """Adds bias, norm, activation and residual of the last linear to the chain; returns why the chain would end there."""
    _extend_bias(ctx, chains)
    _skip_dropout(chains)
    _extend_norm(ctx, chains)
    _skip_dropout(chains)
    last = chains[-1]
    found = match_activation(ctx, last.output)
    refused = found if isinstance(found, Miss) else Miss("no linear reads it", found.output)
    if not isinstance(found, Miss):
        _grow(
            chains, found.output, found.nodes, activation=found.name, slope=found.slope,
            gate_scale=found.gate_scale, gate_shift=found.gate_shift, number=found.number,
        )  # fmt: skip
    _skip_dropout(chains)
    _extend_residual(chains, values)
    _skip_dropout(chains)
    return refused


def _grow(chains: list[Chain], output: fx.Node, nodes: frozenset[fx.Node], **fields: Any) -> None:
    last = chains[-1]
    step = dataclasses.replace(last.steps[-1], **fields)
    chains.append(Chain(last.source, (*last.steps[:-1], step), last.nodes | nodes, output))


def _skip_dropout(chains: list[Chain]) -> None:
    while (user := only_user(chains[-1].output)) is not None and is_eval_dropout(user):
        if user.target is _aten.native_dropout.default:
            return
        _grow(chains, user, frozenset({user}))


def _extend_bias(ctx: PassContext, chains: list[Chain]) -> None:
    """Adds a constant vector that is added after a linear without bias."""
    last = chains[-1]
    user = only_user(last.output)
    if last.steps[-1].bias is not None or user is None or user.target is not _aten.add.Tensor:
        return
    other = user.args[1] if user.args[0] is last.output else user.args[0]
    width = _width(ctx, last.steps[-1].weight)
    if isinstance(other, fx.Node) and _is_vector(ctx, other, width) and user.kwargs.get("alpha", 1) == 1:
        _grow(chains, user, frozenset({user}), bias=other)


def _extend_norm(ctx: PassContext, chains: list[Chain]) -> None:
    last = chains[-1]
    user = only_user(last.output)
    if user is None or user.target is not _aten.layer_norm.default or user.args[0] is not last.output:
        return
    width = _width(ctx, last.steps[-1].weight)
    shape: Any = user.args[1]
    weight, bias = argument(user, 2, "weight"), argument(user, 3, "bias")
    fits = all(p is None or _is_vector(ctx, p, width) for p in (weight, bias))
    if list(shape) == [width] and fits:
        eps = float(argument(user, 4, "eps", 1e-5))
        _grow(chains, user, frozenset({user}), norm=True, norm_weight=weight, norm_bias=bias, norm_eps=eps)


def _extend_residual(chains: list[Chain], values: Sequence[fx.Node]) -> None:
    """Adds an addition of the input of the chain or of the output of an earlier layer."""
    last = chains[-1]
    user = only_user(last.output)
    if user is None or user.target is not _aten.add.Tensor or user.kwargs.get("alpha", 1) != 1:
        return
    other: Any = user.args[1] if user.args[0] is last.output else user.args[0]
    a, b = value(last.output), value(other)
    if other in values and a is not None and b is not None and same_shape(a, b):
        _grow(chains, user, frozenset({user}), residual=list(values).index(other))


def _source(node: fx.Node) -> Any:
    return node.args[1] if node.target is _aten.addmm.default else node.args[0]


def _linear_step(ctx: PassContext, node: fx.Node) -> Step | Miss:
    """The layer at a linear or at a product with a constant matrix; a Miss if it cannot be one."""
    source = value(_source(node))
    held = value(node)
    if source is None or held is None:
        return Miss("its input is not a tensor", node)
    if source.ndim < 2 or source.dtype is not torch.float32 or held.dtype is not torch.float32:
        return Miss(f"its input is {str(source.dtype).removeprefix('torch.')} of {source.ndim} dimension(s)", node)
    at = 2 if node.target is _aten.addmm.default else 1
    read: Any = node.args[at]
    weight = ctx.tensor(read)
    if weight is None:
        return Miss("its weight is computed", node)
    if weight.ndim != 2 or weight.dtype is not torch.float32:
        return Miss("its weight is not a float32 matrix", node)
    if node.target is _aten.linear.default:
        bias, param = argument(node, 2, "bias"), read
    else:
        bias = node.args[0] if node.target is _aten.addmm.default else None
        param = Fresh(f"{read.target}_t", weight.detach().t().contiguous())
    if any(node.kwargs.get(name, 1) != 1 for name in ("beta", "alpha")):
        return Miss("it scales its product or its bias", node)
    if bias is not None and not _is_vector(ctx, bias, _width(ctx, param)):
        return Miss("its bias is computed, or not a vector of its width", node)
    return Step(param, bias)


def _is_vector(ctx: PassContext, read: Any, width: int) -> bool:
    tensor = ctx.tensor(read)
    return tensor is not None and tensor.dtype is torch.float32 and tuple(tensor.shape) == (width,)


def _width(ctx: PassContext, weight: Param) -> int:
    return int(_numbers(ctx, weight).shape[0])


def _numbers(ctx: PassContext, param: Param) -> torch.Tensor:
    return param.tensor if isinstance(param, Fresh) else ctx.stored(param)


def _is_bare(step: Step) -> bool:
    return step.activation == "none" and not step.norm and step.residual < 0


def emit_layers(ctx: PassContext, steps: Sequence[Step]) -> tuple[list[fx.Node], list[int], list[float]]:
    """Stores the new parameters; returns the operator's arguments: parameters, layers, numbers.

    A tensor that several layers read is one parameter, also under several names.
    """
    params: list[fx.Node] = []
    held: list[torch.Tensor] = []

    def position(param: Param | None) -> int:
        if param is None:
            return -1
        tensor = _numbers(ctx, param)
        for index, other in enumerate(held):
            if other is tensor:
                return index
        params.append(ctx.constant(param.stem, tensor) if isinstance(param, Fresh) else param)
        held.append(tensor)
        return len(params) - 1

    layers = [
        Layer(
            weight=position(step.weight), bias=position(step.bias), activation=step.activation, slope=position(step.slope),
            gate_scale=position(step.gate_scale), gate_shift=position(step.gate_shift),
            norm_weight=position(step.norm_weight), norm_bias=position(step.norm_bias), norm=step.norm,
            residual=step.residual, norm_eps=step.norm_eps, number=step.number,
        )
        for step in steps
    ]  # fmt: skip
    return params, *encode(layers)
