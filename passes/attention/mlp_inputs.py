"""Target attention in a graph: the input of its MLP, from query and keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of
from recfx.ir.op_sets import BROADCASTS, EXPANSIONS
from recfx.ir.sizes import same_size
from recfx.ops.attention import PARTS
from recfx.passes._match import argument, only_user, same_shape, value
from recfx.pipeline import Miss

_aten = torch.ops.aten
_COMPOUND = (_aten.sub.Tensor, _aten.mul.Tensor)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The input of the MLP.

    Attributes:
        query: [B, D] or [B, 1, D].
        keys: [B, L, D], or [1, L, D] if all rows share them.
        spread: The keys [B, L, D] as the graph reads them.
        parts: Positions in `recfx.ops.attention.PARTS`, in the order of the concatenation.
    """

    query: fx.Node
    keys: fx.Node
    spread: fx.Node
    parts: tuple[int, ...]


def match_inputs(node: Any) -> Inputs | Miss | None:
    """Query and keys from the concatenation that the MLP reads; None if it does not concatenate [B, L, D] tensors."""
    joined = _concatenation(node)
    if joined is None:
        return None
    members = items_of(joined, 0)
    queries, others = _operands(members)
    if not queries or not others:
        return None
    if len(set(queries.values())) != 1 or len(others) != 1:
        return Miss("the concatenated tensors are not parts of one query and one tensor of keys", joined)
    query, keys = next(iter(queries.values())), others[0]
    parts = [part for part in (_part(member, queries, keys) for member in members) if part is not None]
    if len(parts) != len(members):
        return Miss("a part is neither query, key, difference nor product", joined)
    if not all(_has_shape_of(member, members[0]) for member in members) or not _is_rows(query, keys):
        return Miss("query and keys have different widths or dtypes", joined)
    if any(only_user(read) is None for read in (joined, node)):
        return Miss("the concatenation is read elsewhere as well", joined)
    return Inputs(query, _shared_keys(keys), keys, tuple(parts))


def _concatenation(node: Any) -> fx.Node | None:
    """The concatenation [B, L, width] at a node, or behind its reshape to rows [B * L, width]."""
    joined: Any = node.args[0] if isinstance(node, fx.Node) and node.target is _aten.reshape.default else node
    held = value(joined)
    if held is None or held.ndim != 3 or joined.target is not _aten.cat.default:
        return None
    found: fx.Node = joined
    return found if argument(joined, 1, "dim", 0) in (2, -1) and _keeps_rows(node, joined) else None


def _operands(members: list[fx.Node]) -> tuple[dict[fx.Node, fx.Node], list[fx.Node]]:
    """The tensors in the members: (those that repeat a query -> the query, all others), each once and in order."""
    compound = [member for member in members if member.target in _COMPOUND]
    read = [member for member in members if member not in compound]
    read += [operand for member in compound for operand in member.args[:2] if isinstance(operand, fx.Node)]
    behind = {node: _query_of(node) for node in read}
    queries = {node: query for node, query in behind.items() if query is not None}
    return queries, [node for node in behind if node not in queries]


def _keeps_rows(node: Any, joined: Any) -> bool:
    """Whether a node is the concatenation, or its reshape to rows [B * L, width]."""
    a, b = value(node), value(joined)
    return node is joined or (a is not None and b is not None and a.ndim == 2 and same_size(a.shape[1], b.shape[2]))


def _query_of(node: Any) -> fx.Node | None:
    """The query [B, D] or [B, 1, D] behind a tensor that repeats it along the keys or broadcasts along them."""
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


def _part(member: fx.Node, queries: dict[fx.Node, fx.Node], keys: fx.Node) -> int | None:
    """The position in PARTS of a member of the concatenation; None if it is another value."""
    if member in queries:
        return PARTS.index("q")
    if member is keys:
        return PARTS.index("k")
    if member.target not in _COMPOUND or member.kwargs:
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
    """The single row of keys that are expanded over the batch; other keys as they are."""
    source: Any = keys.args[0] if keys.target in BROADCASTS else None
    held = value(source)
    return source if held is not None and held.ndim == 3 and held.shape[0] == 1 else keys
