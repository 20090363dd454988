"""Rewrites scores, products of queries with the rows of a constant table, to use packed codes of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import Codes, code_row_bytes, pack_codes
from recfx.formats.code_rows import MOST_COLUMNS
from recfx.ops import hamming
from recfx.passes._match import value
from recfx.passes.quantize.products import DOT, PRODUCTS, Labels, Operand, Product, product_of, sources
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten

#: Operators that may lie between scores and the output. A product with other operators behind it belongs to a layer.
_AFTER_SCORES = {
    "add", "sub", "rsub", "mul", "div", "neg", "sigmoid", "log_sigmoid", "softmax", "_softmax", "log_softmax", "_log_softmax", "exp",
    "tanh", "clamp", "masked_fill", "where", "squeeze", "unsqueeze", "view", "reshape", "flatten", "transpose", "t", "permute", "expand",
    "contiguous", "clone", "sym_size", "topk", "sort", "argsort", "argmax", "max", "getitem", "cat",
    "gather", "to", "_to_copy", "slice", "select",
}  # fmt: skip


@dataclass(frozen=True)
class Items:
    """The side of a product that is a constant table.

    Attributes:
        table: The read of the table.
        rows: float32 [n, d], the tensor of the table, transposed if its columns are the items.
        label: The label of the items if the product reads the whole table; otherwise None.
        ids: The ids if the product reads looked-up rows; otherwise None.
    """

    table: fx.Node
    rows: torch.Tensor
    label: str | None = None
    ids: Operand | None = None

    def labels(self) -> set[str]:
        """The labels of the dimensions without the columns."""
        held = [self.label] if self.ids is None else list(self.ids.labels)
        return {label for label in held if label is not None}

    def amount(self) -> tuple[bool, int, int]:
        """A key that orders sides by how much of the table they read for a query."""
        whole = self.ids is None
        return whole, len(self.labels()), 0 if self.ids is None else len(self.ids.labels)


@dataclass(frozen=True)
class Packed:
    """The codes of a table and the rotation of its columns, as names of state.

    Attributes:
        codes: The name of the packed codes.
        bits: Bits of a code.
        rotation: The name of the matrix [d, d] by which queries are multiplied, as the weight of a linear; or None.
    """

    codes: str
    bits: int
    rotation: str | None


#: Rounds a table; returns its codes, and the rotation [d, d] by which its rows were multiplied on the right, or None.
Rounding = Callable[[torch.Tensor], tuple[Codes, torch.Tensor | None]]


def score_in_codes(ctx: PassContext, rounding: Rounding, bits: int, query_bits: int, min_rows: int) -> None:
    """Rewrites every score of the program.

    Args:
        ctx: The pass context.
        rounding: Gives the codes of a table.
        bits: Bits of a code.
        query_bits: Bits to which queries are rounded.
        min_rows: The fewest rows of a table to quantise.
    """
    done: dict[tuple[int, bool], Packed] = {}
    for node in ctx.nodes(*PRODUCTS):
        product = product_of(node)
        if product is None:
            continue
        found = product if isinstance(product, Miss) else _score(ctx, node, product, bits, min_rows)
        if isinstance(found, Miss):
            ctx.miss("score", found.node or node, found.reason)
            continue
        assert isinstance(product, Product)
        items, query, shape = found
        key = id(ctx.tensor(items.table)), items.rows is ctx.tensor(items.table)
        try:
            made = None if key in done else rounding(items.rows.detach())
        except InputError as error:
            ctx.miss("score", node, error.what)
            continue
        if not ctx.gate("score", node):
            continue
        with ctx.before(node):
            if made is not None:
                done[key] = _keep(ctx, items.table, *made)
            ctx.replace(node, _rewritten(ctx, product, items, query, shape, done[key], query_bits))
    ctx.sweep()


def _keep(ctx: PassContext, table: fx.Node, codes: Codes, rotation: torch.Tensor | None) -> Packed:
    stem = f"{str(table.target).replace('.', '_')}_{codes.bits}bit_codes"
    held = ctx.constant(stem, pack_codes(codes))
    turned = None if rotation is None else ctx.constant(f"{stem}_rotation", rotation.T.contiguous())
    return Packed(str(held.target), codes.bits, None if turned is None else str(turned.target))


@dataclass(frozen=True)
class _Shape:
    """The labels of the rows and the columns of the result of `code_dot`."""

    rows: str | None
    columns: str | None


def _score(
    ctx: PassContext, node: fx.Node, product: Product, bits: int, min_rows: int
) -> tuple[Items, Operand, _Shape] | Miss:
    """The items, the query and the shape of a score, or why a product is not a score."""
    found = [_items(ctx, product.left), _items(ctx, product.right)]
    sides = [(items, other) for items, other in zip(found, (product.right, product.left), strict=True) if items]
    if not sides:
        return Miss("neither side looks up rows of a constant table")
    # If both do, the items are the whole table, or the side with more rows for a query, or the right side.
    items, query = max(reversed(sides), key=lambda side: side[0].amount())
    held = value(query.node)
    rows, dim = items.rows.shape
    if held is None or held.dtype is not torch.float32 or items.rows.dtype is not torch.float32:
        return Miss(f"the table is {items.rows.dtype}, the query {None if held is None else held.dtype}")
    if query.node.op == "get_attr":
        return Miss("the query is constant")
    if rows < min_rows or not rows:
        return Miss(f"only {rows} row(s)")
    if dim > MOST_COLUMNS or code_row_bytes(bits, dim) >= 4 * dim:
        return Miss(f"a row of {dim} would take {code_row_bytes(bits, dim)} bytes instead of {4 * dim}")
    reader = _layer_behind(node)
    if reader is not None:
        return Miss(f"{reader.name} reads the products: they belong to a layer")
    shape = _shape(product, items, query)
    return shape if isinstance(shape, Miss) else (items, query, shape)


def _items(ctx: PassContext, operand: Operand) -> Items | None:
    """The table behind an operand; None if the operand is not a table or rows of one."""
    node, labels = sources(operand)[-1].node, sources(operand)[-1].labels
    tensor = ctx.tensor(node)
    if tensor is not None:
        at = labels.index(DOT) if DOT in labels else 0
        if tensor.ndim != 2 or DOT not in labels or tensor.shape[1 - at] < 2:
            return None
        return Items(node, tensor if at == 1 else tensor.T, label=labels[1 - at])
    lookup = _looked_up(node)
    if lookup is None or labels[-1] != DOT:
        return None
    table, ids = lookup
    tensor = ctx.tensor(table)
    return None if tensor is None or tensor.ndim != 2 else Items(table, tensor, ids=Operand(ids, labels[:-1]))


def _looked_up(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The table and the ids of a lookup; None for another node."""
    arguments: Any = node.args
    if node.target is _aten.embedding.default:
        return arguments[0], arguments[1]
    if node.target is _aten.index_select.default and arguments[1] == 0:
        return arguments[0], arguments[2]
    return None


def _layer_behind(node: fx.Node) -> fx.Node | None:
    """An operator behind a product that is not one of `_AFTER_SCORES`; None if there is no such operator."""
    pending, seen = [node], {node}
    while pending:
        for user in pending.pop().users:
            if user.op == "output" or user in seen:
                continue
            name = getattr(user.target, "__name__", "")
            packet = getattr(user.target, "overloadpacket", None)
            if (packet.__name__ if packet is not None else name) not in _AFTER_SCORES:
                return user
            seen.add(user)
            pending.append(user)
    return None


def _shape(product: Product, items: Items, query: Operand) -> _Shape | Miss:
    own = [label for label in sources(query)[-1].labels if label not in (DOT, None)]
    others = sorted(items.labels() - set(own))
    if len(own) > 1:
        return Miss("the query has more dimensions than its row and its columns")
    if items.ids is None or own:
        rows, columns = (own[0] if own else None), (others[0] if others else None)
        fits = len(others) <= 1
    else:  # one query for all: every id is a row
        rows, columns, fits = (others[0] if others else None), None, len(others) <= 1
    if not fits or {label for label in product.labels if label is not None} != {rows, columns} - {None}:
        return Miss("the ids have more dimensions than a row and its candidates")
    return _Shape(rows, columns)


def _rewritten(
    ctx: PassContext, product: Product, items: Items, query: Operand, shape: _Shape, packed: Packed, query_bits: int
) -> fx.Node:
    """Inserts the score from codes, in the shape of the product."""
    deepest = next(s for s in reversed(sources(query)) if set(s.labels) - {None} <= {shape.rows, DOT})
    rows = _arranged(ctx, deepest, (shape.rows, DOT))
    if packed.rotation is not None:
        rows = ctx.call(_aten.linear.default, rows, ctx.read(packed.rotation))
    ids = None if items.ids is None else _arranged(ctx, items.ids, (shape.rows, shape.columns))
    scores = ctx.call(hamming.code_dot, rows, ctx.read(packed.codes), ids, packed.bits, query_bits)
    result = _arranged(ctx, Operand(scores, (shape.rows, shape.columns)), product.labels)
    return result if product.bias is None else ctx.call(_aten.add.Tensor, result, product.bias)


def _arranged(ctx: PassContext, operand: Operand, wanted: Labels) -> fx.Node:
    """A tensor with the wanted dimensions in order. Missing dimensions and those without a label get size one."""
    node, labels = operand.node, list(operand.labels)
    if tuple(labels) == wanted:
        return node
    for at in reversed([i for i, label in enumerate(labels) if label is None]):
        node = ctx.call(_aten.squeeze.dim, node, at)
        del labels[at]
    if len(labels) == 2 and [label for label in wanted if label in labels] != labels:
        node = ctx.call(_aten.permute.default, node, [1, 0])
        labels.reverse()
    for at, label in enumerate(wanted):
        if label is None or label not in labels:
            node = ctx.call(_aten.unsqueeze.default, node, at)
            labels.insert(at, label)
    return node
