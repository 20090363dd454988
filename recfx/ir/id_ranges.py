"""The range of ids that each column of the inputs can hold, found by following the inputs of a graph to its lookups.

The part of the graph that lookups depend on runs on the example. Every element of an intermediate value carries a label, the input column
that it came from, and a shift, the sum of the numbers added to it on the way. Where labels reach the ids of a lookup, the size of the table
bounds the column.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of
from recfx.ir.bags import Bags
from recfx.ir.program import Program

_aten = torch.ops.aten
_FREE = 2**62

#: Operators that move or repeat elements of their first argument, by the name of the operator.
_MOVES = frozenset(
    [
        "select",
        "slice",
        "unsqueeze",
        "squeeze",
        "view",
        "reshape",
        "_unsafe_view",
        "expand",
        "expand_as",
        "permute",
        "transpose",
        "t",
        "flatten",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "index",
        "index_select",
        "gather",
        "narrow",
        "repeat",
        "unflatten",
        "flip",
        "roll",
    ]
)
#: Operators that change the type of elements, or keep some elements and set the others to a constant.
_KEEPS = frozenset(["to", "_to_copy", "type_as", "long", "int", "float", "masked_fill", "abs", "relu"])
_JOINS = frozenset(("cat", "stack"))
_LOOKUPS = frozenset(("embedding", "embedding_bag", "index_select", "index"))


@dataclasses.dataclass(frozen=True)
class IdRange:
    """The ids that each column of a leaf can hold; every attribute is int64 [columns].

    Attributes:
        low: The smallest id.
        high: The largest id; below `low` in columns that no lookup reads.
        padding: The padding id of the lookup; -1 when it has none.
    """

    low: torch.Tensor
    high: torch.Tensor
    padding: torch.Tensor

    @property
    def known(self) -> torch.Tensor:
        """Whether a lookup reads each column, bool [columns]."""
        return self.high >= self.low


@dataclasses.dataclass(frozen=True)
class _Labels:
    """For every element of a tensor: the input column that it came from (-1 for none), and the number added to it."""

    column: torch.Tensor
    shift: torch.Tensor


def id_ranges(program: Program, bags: Sequence[Bags], columns: dict[int, torch.Tensor]) -> dict[int, IdRange]:
    """The ids that the columns of the inputs can hold.

    Args:
        program: The program; it is run on its example.
        bags: The program's bags, including those of jagged tensors.
        columns: Position of a leaf -> the column of every element of its example, int64 of the leaf's shape.

    Returns:
        Position of a leaf -> its ranges, for leaves with at least one column that a lookup reads.
    """
    follower = _Follower(program, columns)
    try:
        with torch.no_grad():
            follower.run(*program.example)
    except Exception:  # noqa: BLE001 - the numeric comparison reports a program that fails on its example
        return {}
    return follower.ranges()


class _Follower(fx.Interpreter):
    def __init__(self, program: Program, columns: dict[int, torch.Tensor]) -> None:
        super().__init__(program.module)
        self._starts: dict[int, int] = {}
        self._labels: dict[fx.Node, Any] = {}
        self._needed = _behind_lookups(program.graph)
        total = 0
        placeholders = program.placeholders()
        self._sizes = {leaf: int(own.max()) + 1 for leaf, own in columns.items() if own.numel()}
        for leaf, size in self._sizes.items():
            self._starts[leaf] = total
            labels = columns[leaf] + total
            self._labels[placeholders[leaf]] = _Labels(labels, torch.zeros_like(labels))
            total += size
        self._low = torch.full((total,), -_FREE)
        self._high = torch.full((total,), _FREE)
        self._padding = torch.full((total,), -1)

    def ranges(self) -> dict[int, IdRange]:
        """The ranges found in the run."""
        found = {}
        for leaf, start in self._starts.items():
            part = slice(start, start + self._sizes[leaf])
            known = self._high[part] < _FREE
            if bool(known.any()):
                found[leaf] = IdRange(
                    torch.where(known, self._low[part], 0),
                    torch.where(known, self._high[part], -1),
                    self._padding[part],
                )
        return found

    def run_node(self, n: fx.Node) -> Any:
        if n not in self._needed and n.op != "placeholder":
            return None
        result = super().run_node(n)
        if n.op == "call_function" and any(source in self._labels for source in n.all_input_nodes):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self._follow(n, args, kwargs, result)
        return result

    def _follow(self, n: fx.Node, args: Any, kwargs: Any, result: Any) -> None:
        name = _name(n)
        own = self._labels.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        if n.target is operator.getitem and own is not None:
            self._labels[n] = own[n.args[1]]
        elif name in ("embedding", "embedding_bag"):
            self._bound(n.args[1], args[0].shape[0], _padding(name, args, kwargs))
        elif name == "index_select" and own is None and argument_of(n, 0, fx.Node).op == "get_attr":
            self._bound(n.args[2], args[0].shape[args[1]], None)
        elif name == "index" and own is None and argument_of(n, 0, fx.Node).op == "get_attr":
            for axis, index in enumerate(items_of(n, 1)):
                self._bound(index, args[0].shape[axis], None)
        elif name in _JOINS:
            self._labels[n] = self._joined(n, args, kwargs)
        elif own is not None and isinstance(own, _Labels):
            moved = self._moved(n, name, own, args, kwargs, result)
            if moved is not None:
                self._labels[n] = moved

    def _moved(self, n: fx.Node, name: str, own: _Labels, args: Any, kwargs: Any, result: Any) -> Any:
        target: Any = n.target
        if name in _MOVES:
            kept = [target(part, *args[1:], **kwargs) for part in (own.column, own.shift)]
            return (
                _Labels(*kept) if isinstance(kept[0], torch.Tensor) else [_Labels(*p) for p in zip(*kept, strict=True)]
            )
        if not isinstance(result, torch.Tensor):
            return None
        if name in _KEEPS and result.shape == own.column.shape:
            return own
        if name in ("add", "sub") and len(args) > 1 and not kwargs and n.args[1] not in self._labels:
            other = torch.as_tensor(args[1])
            if other.is_floating_point() and not torch.equal(other, other.round()):
                return None
            added = other.long() if name == "add" else -other.long()
            return _Labels(own.column.expand(result.shape), (own.shift + added).expand(result.shape))
        if name == "mul" and isinstance(args[1], torch.Tensor) and bool(((args[1] == 0) | (args[1] == 1)).all()):
            return _Labels(own.column.expand(result.shape), own.shift.expand(result.shape))
        return None

    def _joined(self, n: fx.Node, args: Any, kwargs: Any) -> _Labels:
        parts = []
        for node, tensor in zip(items_of(n, 0), args[0], strict=True):
            unknown = torch.full(tensor.shape, -1)
            parts.append(self._labels.get(node) or _Labels(unknown, unknown))
        target: Any = n.target
        return _Labels(*(target([getattr(p, key) for p in parts], *args[1:], **kwargs) for key in ("column", "shift")))

    def _bound(self, ids: Any, rows: int, padding: int | None) -> None:
        """Bounds the columns in the labels of `ids` by a table of `rows` rows."""
        labels = self._labels.get(ids) if isinstance(ids, fx.Node) else None
        if not isinstance(labels, _Labels):
            return
        column, shift = labels.column.reshape(-1), labels.shift.reshape(-1)
        column, shift = column[column >= 0], shift[column >= 0]
        self._high.scatter_reduce_(0, column, rows - 1 - shift, "amin")
        self._low.scatter_reduce_(0, column, -shift, "amax")
        if padding is not None:
            self._padding[column] = padding - shift


def _name(n: fx.Node) -> str:
    """The name of an ATen operator without namespace and overload."""
    return n.target._schema.name.split("::")[-1] if isinstance(n.target, torch._ops.OpOverload) else ""


def _behind_lookups(graph: fx.Graph) -> set[fx.Node]:
    """The lookups of a graph, with the nodes whose values they need."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in found or _name(node) in _LOOKUPS:
            found.add(node)
            found.update(node.all_input_nodes)
    return found


def _padding(name: str, args: Any, kwargs: Any) -> int | None:
    """The padding id of a lookup, in [0, rows); None when it has none."""
    position = 2 if name == "embedding" else 8
    told = args[position] if len(args) > position else kwargs.get("padding_idx")
    if told is None or (name == "embedding" and told < 0):
        return None
    return int(told) % int(args[0].shape[0])
