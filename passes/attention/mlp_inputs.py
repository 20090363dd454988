"""Target attention in a graph: what its MLP reads of query and keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.op_sets import BROADCASTS, EXPANSIONS, RESHAPES
from recfx.ops.attention import PARTS
from recfx.passes._match import argument, only_user, same_shape, same_size, value
from recfx.pipeline import Miss

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the MLP reads: parts of a query [B, D] or [B, 1, D] and of keys [B or 1, L, D]."""

    query: fx.Node
    keys: fx.Node
    spread: fx.Node
    parts: tuple[int, ...]


def match_inputs(node: Any) -> Inputs | Miss | None:
    """Query and keys from the concatenation that the MLP reads; None when it is no concatenation of [B, L, D] tensors."""
    joined: Any = node.args[0] if isinstance(node, fx.Node) and node.target in RESHAPES else node
    held = value(joined)
    if held is None or held.ndim != 3 or joined.target is not _aten.cat.default:
        return None
    if argument(joined, 1, "dim", 0) not in (2, -1) or not _keeps_rows(node, joined):
        return None
    members: list[Any] = list(joined.args[0])
    compound = [m for m in members if m.target in (_aten.sub.Tensor, _aten.mul.Tensor)]
    simple = [m for m in members if m not in compound]
    operands = [a for m in compound for a in m.args[:2] if isinstance(a, fx.Node)]
    queries = dict.fromkeys(n for n in (*simple, *operands) if _query_of(n) is not None)
    others = dict.fromkeys(n for n in (*simple, *operands) if _query_of(n) is None)
    if not queries or not others:
        return None  # a concatenation of other things
    query = _query_of(next(iter(queries)))
    if query is None or any(_query_of(q) is not query for q in queries) or len(others) != 1:
        return Miss("what it concatenates are no parts of one query and one tensor of keys", joined)
    spread, keys = next(iter(others)), next(iter(others))
    parts = [_part(m, queries, keys) for m in members]
    if any(p is None for p in parts):
        return Miss("a part is neither query, key, difference nor product", joined)
    if any(not _has_shape_of(m, members[0]) for m in members) or not _is_rows(query, keys):
        return Miss("query and keys have different widths or dtypes", joined)
    if only_user(joined) is None or (node is not joined and only_user(node) is None):
        return Miss("the concatenation is read elsewhere as well", joined)
    return Inputs(query, _shared_keys(keys), spread, tuple(p for p in parts if p is not None))


def _keeps_rows(node: Any, joined: Any) -> bool:
    """Whether a reshape of the concatenation only makes rows of it: [B * L, width]."""
    a, b = value(node), value(joined)
    return node is joined or (a is not None and b is not None and a.ndim == 2 and same_size(a.shape[1], b.shape[2]))


def _query_of(node: Any) -> fx.Node | None:
    """The query [B, D] or [B, 1, D] behind a tensor that repeats it along the keys, or that broadcasts along them."""
    held = value(node)
    if held is None or held.ndim != 3:
        return None
    source: fx.Node = node.args[0] if node.target in EXPANSIONS else node
    inner = value(source)
    if inner is None or inner.ndim != 3 or inner.shape[1] != 1 or not same_size(inner.shape[2], held.shape[2]):
        return None
    if node.target is _aten.repeat.default and not same_size(inner.shape[0], held.shape[0]):
        return None
    if not same_size(inner.shape[0], held.shape[0]):
        return None
    if source.target is _aten.unsqueeze.default and source.args[1] in (1, -2):
        return argument_of(source, 0, fx.Node)
    return source


def _part(member: fx.Node, queries: dict[fx.Node, None], keys: fx.Node) -> int | None:
    """Which of PARTS a member of the concatenation is."""
    if member in queries:
        return PARTS.index("q")
    if member is keys:
        return PARTS.index("k")
    if member.target not in (_aten.sub.Tensor, _aten.mul.Tensor) or member.kwargs:
        return None
    left, right = member.args[:2]
    sides = tuple("q" if s in queries else "k" if s is keys else "?" for s in (left, right))
    if sides not in (("q", "k"), ("k", "q")):
        return None
    return PARTS.index("q*k" if member.target is _aten.mul.Tensor else "-".join(sides))


def _has_shape_of(a: fx.Node, b: fx.Node) -> bool:
    x, y = value(a), value(b)
    return x is not None and y is not None and same_shape(x, y)


def _is_rows(query: fx.Node, keys: fx.Node) -> bool:
    q, k = value(query), value(keys)
    return (
        q is not None
        and k is not None
        and q.dtype is k.dtype is torch.float32
        and isinstance(k.shape[2], int)
        and q.shape[-1] == k.shape[2]
    )


def _shared_keys(keys: fx.Node) -> fx.Node:
    """Keys of one row that are expanded over the batch, as that row."""
    source: Any = keys.args[0] if keys.target in BROADCASTS else None
    held = value(source)
    return source if held is not None and held.ndim == 3 and held.shape[0] == 1 else keys
