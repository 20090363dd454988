"""Part of hoist-requests: splits vectors [B, fields, D] into the fields of the request and those of the candidates.

sum over fields of f(V)   -> sum f(V_candidate) + sum f(V_request)
pairwise dots of V        -> dots of V_request once, of V_candidate with V_request, and of V_candidate
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.passes._match import argument, only_user, turned, value
from recfx.passes.hoist.request_forms import Shared

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Fields:
    """Vectors of several fields, split by origin.

    Attributes:
        once: The fields of the request, [1 or requests, r, D].
        wide: The fields of the candidates, [B, c, D].
        once_at: The positions of the request's fields among all fields.
        wide_at: The positions of the candidates' fields among all fields.
    """

    once: fx.Node
    wide: fx.Node
    once_at: list[int]
    wide_at: list[int]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some consecutive fields: a node [*, D] ("row"), [*, count, D] ("fields") or [*, count * D] ("flat")."""

    node: fx.Node
    once: bool
    form: str
    count: int


class FieldSplitter:
    """Finds and inserts splits of values [B, fields, D], one for each value.

    Args:
        shared: The values of the request.
        least: The smallest number of request fields for a split.
    """

    def __init__(self, shared: Shared, least: int) -> None:
        self.shared = shared
        self.least = least
        self._parts: dict[fx.Node, list[_Part] | None] = {}
        self._made: dict[fx.Node, Fields] = {}

    def splits(self, node: Any) -> bool:
        """Whether a value has enough fields of the request, and some of the candidates."""
        parts = self._of(node)
        if parts is None:
            return False
        once = sum(p.count for p in parts if p.once)
        return once >= self.least and any(not p.once for p in parts)

    def make(self, node: fx.Node) -> Fields:
        """Inserts the two parts directly after a value for which `splits` holds."""
        if node not in self._made:
            parts = self._of(node) or []
            held = tensor_of(node)
            at: dict[bool, list[int]] = {True: [], False: []}
            position = 0
            for part in parts:
                at[part.once] += range(position, position + part.count)
                position += part.count
            with self.shared.ctx.before(node.next):
                once, wide = (self._join([p for p in parts if p.once is o], held.shape[2]) for o in (True, False))
            self._made[node] = Fields(once, wide, at[True], at[False])
        return self._made[node]

    def _join(self, parts: list[_Part], width: int) -> fx.Node:
        call = self.shared.ctx.call
        if all(p.form == "row" for p in parts):
            return call(_aten.stack.default, [p.node for p in parts], 1)
        if all(p.form == "flat" for p in parts):
            flat = parts[0].node if len(parts) == 1 else call(_aten.cat.default, [p.node for p in parts], 1)
            return call(_aten.reshape.default, flat, [-1, sum(p.count for p in parts), width])
        shaped = [self._shaped(p, width) for p in parts]
        return shaped[0] if len(shaped) == 1 else call(_aten.cat.default, shaped, 1)

    def _shaped(self, part: _Part, width: int) -> fx.Node:
        if part.form == "fields":
            return part.node
        if part.form == "row":
            return self.shared.ctx.call(_aten.unsqueeze.default, part.node, 1)
        return self.shared.ctx.call(_aten.reshape.default, part.node, [-1, part.count, width])

    def _of(self, node: Any) -> list[_Part] | None:
        if not isinstance(node, fx.Node):
            return None
        if node not in self._parts:
            held = value(node)
            fits = held is not None and held.ndim == 3 and all(isinstance(s, int) for s in held.shape[1:])
            self._parts[node] = self._split(node) if fits else None
        return self._parts[node]

    def _split(self, node: fx.Node) -> list[_Part]:
        fields, width = node.meta["val"].shape[1:]
        once = self.shared.once(node)
        if once is not None:
            return [_Part(once, True, "fields", fields)]
        if node.target is _aten.stack.default and argument(node, 1, "dim", 0) in (1, -2):
            return [self._part(n, "row", 1) for n in items_of(node, 0)]
        if node.target is _aten.cat.default and argument(node, 1, "dim", 0) in (1, -2):
            inner = [self._of(n) for n in items_of(node, 0)]
            if all(parts is not None for parts in inner):
                return [part for parts in inner for part in parts or []]
        if node.target is _aten.unsqueeze.default and node.args[1] in (1, -2):
            return [self._part(node.args[0], "row", 1)]
        if node.target is _aten.reshape.default and (flat := self._flat(node.args[0], width)) is not None:
            return flat
        return [_Part(node, False, "fields", fields)]

    def _flat(self, node: Any, width: int) -> list[_Part] | None:
        """The fields of a concatenation [B, fields * D]; None for another value."""
        held = value(node)
        if (
            node.target is not _aten.cat.default
            or argument(node, 1, "dim", 0) not in (1, -1)
            or held is None
            or held.ndim != 2
        ):
            return None
        widths = [n.meta["val"].shape[1] for n in node.args[0]]
        if not all(isinstance(w, int) and w % width == 0 for w in widths):
            return None
        return [self._part(n, "flat", w // width) for n, w in zip(node.args[0], widths, strict=True)]

    def _part(self, node: Any, form: str, count: int) -> _Part:
        once = self.shared.once(node)
        return _Part(node if once is None else once, once is not None, form, count)


def split_sums(shared: Shared, fields: FieldSplitter) -> None:
    """Splits sums over fields, as in factorization machines: the request's fields are summed once."""
    ctx = shared.ctx
    for node in ctx.nodes(_aten.sum.dim_IntList):
        source, chain = _unary_chain(node.args[0])
        held, dims = value(node.args[0]), argument(node, 1, "dim")
        if held is None or held.ndim != 3 or not dims or 1 not in (dims := {d % 3 for d in dims}) or 0 in dims:
            continue
        if not fields.splits(source):
            if fields._of(source) and any(p.once for p in fields._of(source) or []):
                ctx.miss("field-sums", node, "too few of its fields belong to the request, or all do")
            continue
        if not ctx.gate("field-sums", node):
            continue
        split = fields.make(source)
        with ctx.before(node):
            sums = []
            for part in (split.wide, split.once):
                for step in chain:
                    part = ctx.call(
                        step.target, *(part if a in step.all_input_nodes else a for a in step.args), **step.kwargs
                    )
                sums.append(ctx.call(node.target, part, *node.args[1:], **node.kwargs))
            ctx.replace(node, shared.join(*sums))


def _unary_chain(node: Any) -> tuple[Any, list[fx.Node]]:
    """The source, and the elementwise operators with one tensor operand from it to `node`."""
    chain: list[fx.Node] = []
    while isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload):
        inputs = node.all_input_nodes
        if torch.Tag.pointwise not in node.target.tags or len(inputs) != 1 or value(inputs[0]) is None:
            break
        if tensor_of(inputs[0]).shape != tensor_of(node).shape:
            break
        chain.insert(0, node)
        node = inputs[0]
    return node, chain


def split_dots(shared: Shared, fields: FieldSplitter) -> None:
    """Splits pairwise dot products: those between fields of the request are computed once, the other products are smaller."""
    ctx = shared.ctx
    for node in ctx.nodes(_aten.index.Tensor):
        products, picks = node.args[:2]
        if not isinstance(products, fx.Node) or products.target not in MATRIX_PRODUCTS:
            continue
        vectors, other = products.args[:2]
        if not isinstance(vectors, fx.Node) or turned(other) is not vectors or not fields.splits(vectors):
            continue
        pairs = _pairs(shared, picks)
        if pairs is None:
            ctx.miss("dots", node, "the positions of the picked products are not constant")
        elif only_user(products) is not node:
            ctx.miss("dots", node, "its products are read elsewhere as well")
        elif ctx.gate("dots", node):
            _split_dots(shared, fields.make(vectors), node, pairs)


def _pairs(shared: Shared, picks: Any) -> list[tuple[int, int]] | None:
    if len(picks) != 3 or picks[0] is not None:
        return None
    rows, columns = (shared.ctx.tensor(p) for p in picks[1:])
    if rows is None or columns is None or rows.ndim != 1 or rows.shape != columns.shape:
        return None
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _split_dots(shared: Shared, split: Fields, node: fx.Node, pairs: list[tuple[int, int]]) -> None:
    ctx, call = shared.ctx, shared.ctx.call
    total = len(split.once_at) + len(split.wide_at)
    once_at = {field: i for i, field in enumerate(split.once_at)}
    wide_at = {field: i for i, field in enumerate(split.wide_at)}
    pairs = [(i % total, j % total) for i, j in pairs]
    once_pairs = [p for p in pairs if p[0] in once_at and p[1] in once_at]
    wide_pairs = [p for p in pairs if p[0] in wide_at and p[1] in wide_at]
    mixed = len(once_at) * len(wide_at)
    parts: list[fx.Node] = []
    columns: dict[tuple[int, int], int] = {}
    with ctx.before(node):
        if once_pairs:
            parts.append(shared.widen(_dots(shared, split.once, [(once_at[i], once_at[j]) for i, j in once_pairs])))
            columns.update({p: k for k, p in enumerate(once_pairs)})
        if len(once_pairs) + len(wide_pairs) < len(pairs):
            start = len(once_pairs)
            transposed = shared.widen(call(_aten.permute.default, split.once, [0, 2, 1]))
            products = call(_aten.bmm.default, split.wide, transposed)
            parts.append(call(_aten.reshape.default, products, [-1, mixed]))
            for w, i in wide_at.items():
                for o, j in once_at.items():
                    columns[w, o] = columns[o, w] = start + i * len(once_at) + j
        if wide_pairs:
            start = sum(p.meta["val"].shape[1] for p in parts)
            parts.append(_dots(shared, split.wide, [(wide_at[i], wide_at[j]) for i, j in wide_pairs]))
            columns.update({p: start + k for k, p in enumerate(wide_pairs)})
        joined = call(_aten.cat.default, parts, 1) if len(parts) > 1 else parts[0]
        order = ctx.constant("dot_columns", torch.tensor([columns[p] for p in pairs], device=node.meta["val"].device))
        ctx.replace(node, call(_aten.index_select.default, joined, 1, order))


def _dots(shared: Shared, vectors: fx.Node, pairs: list[tuple[int, int]]) -> fx.Node:
    """The dot products of some pairs of vectors [*, n, D], as [*, pairs]."""
    ctx = shared.ctx
    rows, columns = (torch.tensor(side, device=vectors.meta["val"].device) for side in zip(*pairs, strict=True))
    products = ctx.call(_aten.bmm.default, vectors, ctx.call(_aten.permute.default, vectors, [0, 2, 1]))
    return ctx.call(
        _aten.index.Tensor, products, [None, ctx.constant("dot_rows", rows), ctx.constant("dot_columns", columns)]
    )
