"""Part of hoist-requests: splits linears of which some input columns belong to the request, or are equal for a whole history.

    linear(cat([repeat(x), y]), W, b)   -> linear(y, W_y) + linear(x, W_x, b)
    linear(cat([q, k, q - k, q * k]))   -> linear(q * k, W_4) + linear(q, W_1 + W_3) + linear(k, W_2 - W_3, b)

The product is written as a sum of *terms*, each a value times a matrix, by following concatenations, flattened fields, selections of
columns, sums and differences. Terms of the same shape become one product.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of, tensor_of
from recfx.ir.op_sets import ADDITIONS, EXPANSIONS
from recfx.passes._linear import rounded
from recfx.passes._match import argument, value
from recfx.passes.hoist.field_split import FieldSplitter
from recfx.passes.hoist.request_forms import Shared
from recfx.pipeline import Miss

_aten = torch.ops.aten
_SUMS = ADDITIONS


@dataclasses.dataclass(frozen=True)
class Base:
    """The value of a term.

    Attributes:
        node: The value; with `flat`, a value [B, fields, D] to flatten to [B, fields * D].
        flat: Whether to flatten it.
        once: Whether it has one row per request.
    """

    node: fx.Node
    flat: bool = False
    once: bool = False

    @property
    def sizes(self) -> list[str]:
        """The sizes of the value without the columns."""
        shape = self.node.meta["val"].shape
        return [str(s) for s in (shape[:1] if self.flat else shape[:-1])]


Terms = dict[Base, torch.Tensor]


class LinearSplitter:
    """Splits the linears of a program.

    Args:
        shared: The values of the request.
        fields: The splits of fields.
        least: The smallest number of input columns that a split must take from the product of each candidate.
    """

    def __init__(self, shared: Shared, fields: FieldSplitter, least: int) -> None:
        self.shared = shared
        self.ctx = shared.ctx
        self.fields = fields
        self.least = least
        self._inputs: dict[tuple[Any, ...], fx.Node] = {}

    def run(self) -> None:
        """Splits where it pays."""
        for node in self.ctx.nodes(_aten.linear.default):
            if node.users and isinstance(reason := self._visit(node), Miss):
                self.ctx.miss("split-linear", node, reason.reason)

    def _visit(self, node: fx.Node) -> Miss | None:
        source, weight = _unflattened(argument_of(node, 0, fx.Node)), self.ctx.tensor(node.args[1])
        held = value(source)
        if held is None or not isinstance(held.shape[-1], int):
            return None
        if weight is None or weight.ndim != 2 or not weight.is_floating_point():
            return Miss("its weight is computed") if self._mentions_once(source) else None
        terms: Terms = {}
        self._distribute(source, weight.detach().double(), terms)
        if not any(base.once for base in terms):
            return None
        full = [base for base in terms if not base.once and self._is_full(base, held)]
        freed = held.shape[-1] - sum(terms[base].shape[1] for base in full)
        if freed < self.least:
            return Miss(f"a split would take only {freed} input columns from the product of each candidate")
        groups = self._groups(terms)
        if not full and not _covers(groups, held, self.shared.many):
            return Miss("the parts do not have the shape of the whole")
        weights: list[torch.Tensor] = []
        for group in groups:
            new = rounded(torch.cat([terms[b] for b in group], 1), weight.dtype, like=weight)
            if isinstance(new, Miss):
                return new
            weights.append(new)
        if self.ctx.gate("split-linear", node):
            self._split(node, source, groups, weights)
        return None

    def _split(self, node: fx.Node, source: fx.Node, groups: list[list[Base]], weights: list[torch.Tensor]) -> None:
        inputs = [self._input(source, group) for group in groups]
        bias, name = argument(node, 2, "bias"), str(argument_of(node, 1, fx.Node).target)
        with self.ctx.before(node):
            products: list[tuple[fx.Node, bool]] = []
            for group, columns, new in zip(groups, inputs, weights, strict=True):
                once = group[0].once
                stored = self.ctx.constant(f"{name}_{'request' if once else 'candidate'}", new)
                own = (
                    bias if group is groups[-1] else None
                )  # the request's part takes the bias: one row, and added anyway
                products.append((self.ctx.call(_aten.linear.default, columns, stored, own), once))
            total, once = products[0]
            if once and self.shared.many:
                total = self.shared.widen(total)
            for product, once in products[1:]:
                total = self.shared.join(total, product) if once else self.ctx.call(_aten.add.Tensor, total, product)
            if source is not node.args[0]:
                total = self.ctx.call(_aten.reshape.default, total, [-1, weights[0].shape[0]])
            self.ctx.replace(node, total)

    def _input(self, source: fx.Node, group: list[Base]) -> fx.Node:
        """The concatenated columns of a group, inserted once for all linears that read the same input."""
        key = (source, *group)
        if key not in self._inputs:
            bases = [self._materialise(base) for base in group]
            with self.ctx.before(source.next):
                self._inputs[key] = bases[0] if len(bases) == 1 else self.ctx.call(_aten.cat.default, bases, -1)
        return self._inputs[key]

    def _materialise(self, base: Base) -> fx.Node:
        if not base.flat:
            return base.node
        key = (base,)
        if key not in self._inputs:
            _, count, width = base.node.meta["val"].shape
            with self.ctx.before(base.node.next):
                self._inputs[key] = self.ctx.call(_aten.reshape.default, base.node, [-1, count * width])
        return self._inputs[key]

    def _distribute(self, node: fx.Node, weight: torch.Tensor, terms: Terms) -> None:
        """Adds the terms of `node @ weight.T` to `terms`; `weight` is float64 [N, columns of node]."""
        held = tensor_of(node)
        once = self.shared.once(node)
        if once is not None:
            _add(terms, Base(once, once=True), weight)
        elif node.target is _aten.cat.default and argument(node, 1, "dim", 0) in (-1, held.ndim - 1):
            self._distribute_columns(node, held, weight, terms)
        elif (picked := self._picked(node, held)) is not None:
            source, order = picked
            columns = source.meta["val"].shape[-1]
            self._distribute(source, weight.new_zeros(len(weight), columns).index_add_(1, order, weight), terms)
        elif node.target is _aten.reshape.default and held.ndim == 2 and self.fields.splits(node.args[0]):
            self._distribute_fields(argument_of(node, 0, fx.Node), weight, terms)
        elif not self._distribute_sum(node, held, weight, terms):
            _add(terms, Base(_unexpanded(node, held)), weight)

    def _distribute_columns(self, node: fx.Node, held: torch.Tensor, weight: torch.Tensor, terms: Terms) -> None:
        """Adds the terms of the parts of a concatenation. One with other users whose columns would not shrink stays whole."""
        inner: Terms = {}
        start = 0
        for part in items_of(node, 0):
            width = tensor_of(part).shape[-1]
            self._distribute(part, weight[:, start : start + width], inner)
            start += width
        if len(node.users) > 1 and all(not base.once and self._is_full(base, held) for base in inner):
            inner = {Base(node): weight}
        for base, columns in inner.items():
            _add(terms, base, columns)

    def _distribute_fields(self, vectors: fx.Node, weight: torch.Tensor, terms: Terms) -> None:
        _, count, width = vectors.meta["val"].shape
        split = self.fields.make(vectors)
        blocks = weight.reshape(len(weight), count, width)
        for part, at, once in ((split.once, split.once_at, True), (split.wide, split.wide_at, False)):
            _add(terms, Base(part, True, once), blocks[:, at].reshape(len(weight), len(at) * width))

    def _distribute_sum(self, node: fx.Node, held: torch.Tensor, weight: torch.Tensor, terms: Terms) -> bool:
        """Adds the terms of the operands of a sum or difference, if this leaves fewer columns in the product of each row."""
        if node.target not in _SUMS or node.kwargs.get("alpha", 1) != 1:
            return False
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        if len(operands) != 2:
            return False
        for operand in operands:
            own = value(operand)
            if own is None or own.ndim != held.ndim or own.shape[-1] != held.shape[-1] or own.dtype is not held.dtype:
                return False
        inner: Terms = {}
        signs = (1.0, -1.0 if node.target is _aten.sub.Tensor else 1.0)
        for operand, sign in zip(operands, signs, strict=True):
            self._distribute(operand, sign * weight, inner)
        full = sum(w.shape[1] for base, w in inner.items() if not base.once and self._is_full(base, held))
        if full >= held.shape[-1]:
            return False
        for base, part in inner.items():
            _add(terms, base, part)
        return True

    def _picked(self, node: fx.Node, held: torch.Tensor) -> tuple[fx.Node, torch.Tensor] | None:
        """The source and the order of a selection of columns by constants; None if it drops columns."""
        if node.target is not _aten.index_select.default or node.args[1] not in (-1, held.ndim - 1):
            return None
        source: Any = node.args[0]
        order = self.ctx.tensor(node.args[2])
        if order is None or held.shape[-1] < source.meta["val"].shape[-1]:
            return None
        return source, order

    def _is_full(self, base: Base, whole: torch.Tensor) -> bool:
        """Whether a base has a row for each row of the whole input."""
        return base.sizes == [str(s) for s in whole.shape[:-1]]

    def _groups(self, terms: Terms) -> list[list[Base]]:
        """Bases of one shape and origin together, the candidates' full ones first."""
        groups: dict[tuple[Any, ...], list[Base]] = {}
        for base in terms:
            groups.setdefault((base.once, *base.sizes), []).append(base)
        return sorted(groups.values(), key=lambda g: (g[0].once, -sum(s != "1" for s in g[0].sizes)))

    def _mentions_once(self, node: fx.Node) -> bool:
        return self.shared.once(node) is not None or any(self.shared.once(n) is not None for n in node.all_input_nodes)


def _add(terms: Terms, base: Base, weight: torch.Tensor) -> None:
    terms[base] = terms[base] + weight if base in terms else weight


def _unflattened(node: fx.Node) -> fx.Node:
    """The input of a linear before a reshape flattened positions into rows; otherwise the input."""
    held = value(node)
    if held is None or node.target is not _aten.reshape.default or held.ndim != 2:
        return node
    before = value(node.args[0])
    same = before is not None and before.ndim > 2 and before.shape[-1] == held.shape[-1]
    return argument_of(node, 0, fx.Node) if same else node


def _unexpanded(node: fx.Node, held: torch.Tensor) -> Any:
    """The value that a node expands along other axes than its columns; otherwise the node."""
    source: Any = node.args[0] if node.target in EXPANSIONS else None
    own = value(source)
    if own is None or own.ndim != held.ndim or own.shape[-1] != held.shape[-1]:
        return node
    repeats = zip(own.shape, held.shape, strict=True)
    return source if all(str(a) in (str(b), "1") for a, b in repeats) else node


def _covers(groups: list[list[Base]], whole: torch.Tensor, many: bool) -> bool:
    """Whether the broadcast sum of the groups has a row for each row of the whole input."""
    for axis, size in enumerate(map(str, whole.shape[:-1])):
        repeated = many and axis == 0  # several requests' rows are picked for each candidate before they are added
        if not any(
            len(g[0].sizes) == whole.ndim - 1 and (g[0].sizes[axis] == size or (g[0].once and repeated)) for g in groups
        ):
            return False
    return True
