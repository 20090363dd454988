"""One step of a GRU with attention (AUGRU), in the spellings of models.

    r = sigmoid(r_x + r_h), u = a * sigmoid(u_x + u_h), c = tanh(n_x + r * n_h)
    h' = (1 - u) * h + u * c    or    h + u * (c - h)    or    h - u * h + u * c

The terms of the input are parts of one linear over the whole sequence, or of linears of each step. Those of the state are parts of one
linear, or of one for each gate.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import SPLITS
from recfx.passes._match import argument, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Part:
    """Columns [start, start + width) of a tensor [B, N]."""

    source: fx.Node
    start: int
    width: int


@dataclasses.dataclass(frozen=True)
class Term:
    """The input's term of one gate.

    Attributes:
        sequence: [B, L, K].
        linear: (weight, bias) that is applied to each step of the sequence, or None.
        start: The first column of the term.
    """

    sequence: fx.Node
    linear: tuple[fx.Node, fx.Node | None] | None
    start: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        state: The state before it.
        attention: [B, L].
        place: The step's position in the sequence.
        terms: The input's terms of reset, update and candidate.
        gates: The same of the state: (weight, bias, first row).
    """

    state: fx.Node
    attention: fx.Node
    place: int
    terms: tuple[Term, ...]
    gates: tuple[tuple[fx.Node, fx.Node | None, int], ...]

    def follows(self, other: Step) -> bool:
        """Whether the step is the one behind another of the same sequence."""
        same = (self.attention, self.terms, self.gates) == (other.attention, other.terms, other.gates)
        return same and self.place == other.place + 1


def match_step(ctx: PassContext, node: fx.Node) -> Step | None:
    """The step whose new state is an addition; None for another node."""
    held = value(node)
    if held is None or held.ndim != 2 or held.dtype is not torch.float32 or not isinstance(held.shape[1], int):
        return None
    for state, update, candidate in _mixed(node):
        found = _step(ctx, state, update, candidate, int(held.shape[1]))
        if found is not None:
            return found
    return None


def _operands(node: Any, target: Any) -> Iterator[tuple[Any, Any]]:
    """The operands of a commutative operator, in both orders."""
    if isinstance(node, fx.Node) and node.target is target and not node.kwargs:
        a, b = node.args[:2]
        yield a, b
        yield b, a


def _mixed(node: fx.Node) -> Iterator[tuple[Any, Any, Any]]:
    """(state, update, candidate) of (1 - u) * h + u * c in its forms."""
    for first, second in _operands(node, _aten.add.Tensor):
        for update, candidate in _operands(second, _aten.mul.Tensor):
            kept = [h for rest, h in _operands(first, _aten.mul.Tensor) if _is_rest(rest, update)]
            if isinstance(first, fx.Node) and first.target is _aten.sub.Tensor and not first.kwargs:
                kept += [
                    first.args[0] for u, h in _operands(first.args[1], _aten.mul.Tensor)
                    if u is update and h is first.args[0]
                ]  # fmt: skip
            for state in kept:
                yield state, update, candidate
            fresh = _difference(candidate, first)
            if fresh is not None:
                yield first, update, fresh


def _difference(node: Any, second: Any) -> Any:
    """c of c - h; None for another node."""
    if (
        not isinstance(node, fx.Node)
        or node.target is not _aten.sub.Tensor
        or node.kwargs
        or node.args[1] is not second
    ):
        return None
    return node.args[0]


def _is_rest(node: Any, update: Any) -> bool:
    """Whether a node is 1 - u."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return False
    return node.target is _aten.rsub.Scalar and tuple(node.args) == (update, 1)


def _step(ctx: PassContext, state: Any, update: Any, candidate: Any, hidden: int) -> Step | None:
    for share, gate in _operands(update, _aten.mul.Tensor):
        read = _attention(share)
        updates = _sum_of(ctx, _inside(gate, _aten.sigmoid.default), state)
        if read is None or updates is None:
            continue
        for term, product in _operands(_inside(candidate, _aten.tanh.default), _aten.add.Tensor):
            for reset, held in _operands(product, _aten.mul.Tensor):
                resets = _sum_of(ctx, _inside(reset, _aten.sigmoid.default), state)
                fresh = _input_term(ctx, term), _state_term(ctx, held, state)
                if resets is None or fresh[0] is None or fresh[1] is None:
                    continue
                pairs = (resets, updates, (fresh[0], fresh[1]))
                places = {p for (_, p), _ in ((pair[0], pair[1]) for pair in pairs)} | {read[1]}
                widths = {w for pair in pairs for w in (pair[0][0][1], pair[1][3])}
                if len(places) == 1 and widths == {hidden}:
                    gates = tuple((w, b, start) for _, (w, b, start, _) in pairs)
                    return Step(state, read[0], read[1], tuple(pair[0][0][0] for pair in pairs), gates)
    return None


def _inside(node: Any, target: Any) -> Any:
    return node.args[0] if isinstance(node, fx.Node) and node.target is target else None


_Given = tuple[tuple[Term, int], int]  # the term, its width; the step's position
_Gate = tuple[fx.Node, fx.Node | None, int, int]  # weight, bias, first row, width


def _sum_of(ctx: PassContext, node: Any, state: Any) -> tuple[_Given, _Gate] | None:
    """The input's and the state's term of a gate."""
    for first, second in _operands(node, _aten.add.Tensor):
        given, gate = _input_term(ctx, first), _state_term(ctx, second, state)
        if given is not None and gate is not None:
            return given, gate
    return None


def _state_term(ctx: PassContext, node: Any, state: Any) -> _Gate | None:
    part = part_of(node)
    if part is None or part.source.target is not _aten.linear.default or part.source.args[0] is not state:
        return None
    weight, bias = part.source.args[1], argument(part.source, 2, "bias")
    if ctx.tensor(weight) is None or (bias is not None and ctx.tensor(bias) is None):
        return None
    assert isinstance(weight, fx.Node)
    return weight, bias, part.start, part.width


def _input_term(ctx: PassContext, node: Any) -> _Given | None:
    part = part_of(node)
    if part is None:
        return None
    source, linear = part.source, None
    if source.target is _aten.linear.default:
        weight, bias = source.args[1], argument(source, 2, "bias")
        if ctx.tensor(weight) is None or (bias is not None and ctx.tensor(bias) is None):
            return None
        linear = (weight, bias)
        below: Any = source.args[0]
        source = below
    taken = _taken(source, 3)
    if taken is None:
        return None
    return (Term(taken[0], linear, part.start), part.width), taken[1]  # type: ignore[arg-type]


def part_of(node: Any) -> Part | None:
    """A tensor [B, n] as columns of another."""
    held = value(node)
    if held is None or held.ndim != 2 or not isinstance(held.shape[1], int):
        return None
    width = int(held.shape[1])
    if node.target is operator.getitem and node.args[0].target in SPLITS:
        split = node.args[0]
        parts = [part.shape for part in split.meta["val"]]
        if all(len(part) == 2 for part in parts) and argument(split, 2, "dim", 0) in (1, -1):
            return Part(split.args[0], [0, *accumulate(int(part[1]) for part in parts)][node.args[1]], width)
    if (
        node.target is _aten.slice.Tensor
        and argument(node, 1, "dim", 0) in (1, -1)
        and argument(node, 4, "step", 1) == 1
    ):
        first: Any = argument(node, 2, "start") or 0
        whole = value(node.args[0])
        if whole is not None and isinstance(whole.shape[1], int) and isinstance(first, int):
            return Part(node.args[0], first % int(whole.shape[1]) if whole.shape[1] else 0, width)
    return Part(node, 0, width)


def _taken(node: Any, rank: int) -> tuple[fx.Node, int] | None:
    """(sequence, position) of one step of a sequence of the given rank with the steps in the second dimension."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is operator.getitem and node.args[0].target is _aten.unbind.int:  # type: ignore[union-attr]
        source, dim, place = node.args[0].args[0], argument(node.args[0], 1, "dim", 0), node.args[1]  # type: ignore[union-attr,arg-type]
    elif node.target is _aten.select.int:
        source, dim, place = node.args
    else:
        return None
    held = value(source)
    if held is None or held.ndim != rank or dim not in (1, 1 - rank) or not isinstance(place, int):
        return None
    if not isinstance(held.shape[1], int) or not isinstance(source, fx.Node):
        return None
    return source, place % int(held.shape[1])


def _attention(node: Any) -> tuple[fx.Node, int] | None:
    """(attention [B, L], position) of a share [B, 1]."""
    held = value(node)
    if held is None or held.ndim != 2 or held.shape[1] != 1 or held.dtype is not torch.float32:
        return None
    if node.target in (_aten.unsqueeze.default, _aten.reshape.default):
        return _taken(node.args[0], 2)
    if (
        node.target is _aten.slice.Tensor
        and argument(node, 1, "dim", 0) in (1, -1)
        and argument(node, 4, "step", 1) == 1
    ):
        source: Any = node.args[0]
        start = argument(node, 2, "start") or 0
        whole = value(source)
        if whole is not None and isinstance(whole.shape[1], int) and isinstance(start, int):
            return source, start % int(whole.shape[1])
    if node.target is _aten.select.int:
        taken = _taken(node, 3)
        below: Any = None if taken is None else taken[0]
        if taken is not None and below.target is _aten.unsqueeze.default and below.args[1] in (2, -1):
            return below.args[0], taken[1]
    return None
