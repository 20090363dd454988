"""The values of a random graph while it grows, and how its steps choose among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.op_sets import BROADCASTS, COPIES, JOINS, PERMUTATIONS, REGROUPINGS, ROW_LOOKUPS, SLICES
from recfx.ir.program import get_state
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten
_TABLE_WIDTH = 2

#: Operators without sums: applied to graph inputs and tables, their results do not depend on the order of any sum.
_STEADY = {
    *(*REGROUPINGS, *PERMUTATIONS, *BROADCASTS, *SLICES, *JOINS, *COPIES, *ROW_LOOKUPS),
    *(_aten.select.int, _aten.flip.default, _aten.neg.default, _aten.abs.default, _aten.relu.default, _aten.to.dtype),
    *(_aten.square.default, _aten.sqrt.default, _aten.maximum.default, _aten.minimum.default, _aten.clamp.default),
    *(_aten.clamp_min.default, _aten.clamp_max.default, _aten.floor.default, _aten.round.default, _aten.sign.default),
}
_BOUNDED = {
    *(_aten.tanh.default, _aten.sigmoid.default, _aten.softmax.int, _aten.layer_norm.default, _aten.hardtanh.default),
    *(_aten.relu6.default, _aten.erf.default, _aten.clamp.default),
}
_PRODUCTS = {
    *(_aten.mul.Tensor, _aten.bmm.default, _aten.matmul.default, _aten.einsum.default, _aten.addmm.default),
    *(_aten.baddbmm.default, torch.ops.recfx.cross.default, torch.ops.recfx.target_attention.default),
}
_SQUARES = {
    *(_aten.square.default, torch.ops.recfx.fm.default, torch.ops.recfx.dot_interaction.default),
    _aten.pow.Tensor_Scalar,
}


class Pool:
    """The values made so far, and the state that steps need to make more.

    Args:
        builder: The graph.
        generator: Source of all weights.
        fields: Columns of the input `ids`.
        numbers: Numbers to prefer among constants, such as those a pass looks for.
        favoured: Operators whose results are preferred as operands, such as those a pass looks for.

    Attributes:
        next_operand: The value that the next operator takes where it fits.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        generator: torch.Generator,
        fields: int,
        numbers: Sequence[Any] = (),
        favoured: Collection[Any] = (),
    ) -> None:
        self.builder = builder
        self.generator = generator
        self.fields = fields
        self.numbers = tuple(numbers)
        self.favoured = frozenset(favoured)
        self.values: list[fx.Node] = [n for name, n in builder.inputs.items() if name in ("dense", "sequence", "mask")]
        self.made: list[fx.Node] = []
        self.next_operand: fx.Node | None = None
        self.tables: list[str] = []
        self._degrees: dict[fx.Node, int] = {}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Adds an operator. If it refuses its operands, such as a view of strided memory, Hypothesis draws another graph."""
        try:
            return self.builder.call(target, *args, **kwargs)
        except VerificationError:
            reject()

    def keep(self, node: fx.Node) -> None:
        """Makes a value an output, and an operand of later steps when only its first size is free and no other is zero."""
        self.made.append(node)
        held = node.meta["val"]
        if isinstance(held, torch.Tensor) and all(isinstance(size, int) and size > 0 for size in held.shape[1:]):
            self.values.append(node)

    def choose(self, draw: Any, items: Sequence[fx.Node]) -> fx.Node:
        """Draws one of some nodes: the latest, one of the three latest, the result of a favoured operator, or any.

        Operators therefore often follow each other, most of all those that a pass looks for.
        """
        if not items:
            reject()  # no value has the shape that the step needs: Hypothesis draws another graph
        wanted, self.next_operand = self.next_operand, None
        if wanted is not None and wanted in items:
            return wanted
        if len(items) == 1:
            return items[0]
        latest = list(items)[::-1]
        favoured = [node for node in latest if node.target in self.favoured]
        groups = [latest[:1], latest[:3], latest, *([favoured, favoured] if favoured else [])]
        node: fx.Node = draw(st.sampled_from(draw(st.sampled_from(groups))))
        return node

    def rank(self, draw: Any, *ranks: int) -> int:
        """Draws one of some ranks; takes the rank of `next_operand` if it is one of them."""
        held = None if self.next_operand is None else self.next_operand.meta["val"].ndim
        chosen: int = held if held in ranks else draw(st.sampled_from(ranks))
        return chosen

    def latest(self) -> fx.Node | None:
        """The last value, if it can be an operand."""
        held = self.made[-1] if self.made else None
        return held if held in self.values else None

    def pick(self, draw: Any, rank: int | None = 2, *, degree: int = 8, steady: bool = False) -> fx.Node:
        """A float32 value.

        Args:
            draw: Given by Hypothesis.
            rank: Its rank; None for any.
            degree: At most this degree as a polynomial of the inputs, so that products do not overflow.
            steady: Whether its bits must not depend on the order of any sum, for operators that are not continuous.
        """
        fits = [
            v
            for v in self.values
            if is_float(v)
            and (rank is None or v.meta["val"].ndim == rank)
            and self.degree(v) <= degree
            and (not steady or is_steady(v))
        ]
        return self.choose(draw, fits) if fits else self._fresh(rank or 2)

    def mask(self, draw: Any, rank: int = 2) -> fx.Node:
        """A bool value of a rank."""
        fits = [v for v in self.values if v.meta["val"].dtype is torch.bool and v.meta["val"].ndim == rank]
        return self.choose(draw, fits) if fits else self.call(_aten.gt.Scalar, self._fresh(rank), 0)

    def partner(self, draw: Any, first: fx.Node, *, degree: int = 8) -> fx.Node:
        """A float32 value of the shape of `first`: an earlier value, `first` itself, or a new lookup."""
        wanted = sizes(first)
        if len(wanted) == 2 and wanted[0] == sizes(self.builder.inputs["dense"])[0] and draw(st.booleans()):
            return self.call(_aten.embedding.default, self.table(draw, width(first)), self.column(draw))
        fits = [v for v in self.values if is_float(v) and sizes(v) == wanted and self.degree(v) <= degree]
        return self.choose(draw, fits or [first])

    def degree(self, node: fx.Node) -> int:
        """The degree of a value as a polynomial of the inputs, 1 again after a bounded function."""
        if node not in self._degrees:
            inner = [self.degree(n) for n in node.all_input_nodes if n.op == "call_function"] or [1]
            if node.target in _BOUNDED:
                inner = [1]
            elif node.target in _PRODUCTS:
                inner = [sum(inner) + sum(n.op == "placeholder" for n in node.all_input_nodes)]
            self._degrees[node] = max(inner) * (2 if node.target in _SQUARES else 1)
        return self._degrees[node]

    def number(self, draw: Any) -> Any:
        """A constant: often a number that the pass names, or one that changes nothing, such as 0 in a sum."""
        if self.numbers and draw(st.booleans()):
            number = draw(st.sampled_from(self.numbers))
            return float(number) if draw(st.booleans()) else number
        return draw(st.sampled_from([1, 2.0, 0.5, 1.0, 2, -1.5, 0, -1.0, 0.0, True, -0.5, 3.0]))

    def weight(self, *shape: int, positive: bool = False, draw: Any = None) -> fx.Node:
        """Fresh random state; in [0.1, 1.1] when it must be positive. With `draw`, sometimes zeros, ones, negative or equal rows."""
        tensor = torch.rand(shape, generator=self.generator) + 0.1
        if not positive:
            tensor = torch.randn(shape, generator=self.generator) / 2
            kind = (
                draw(st.sampled_from(["plain", "plain", "plain", "zeros", "ones", "negative", "equal"])) if draw else ""
            )
            made: dict[str, Callable[[], torch.Tensor]] = {
                "zeros": lambda: torch.zeros(shape),
                "ones": lambda: torch.ones(shape),
                "negative": lambda: -tensor.abs() - 0.1,
                "equal": lambda: tensor[:1].expand(shape).clone() if shape else tensor,
            }
            tensor = made[kind]() if kind in made else tensor
        return self.builder.state(f"weight_{len(self._reads())}", torch.nn.Parameter(tensor))

    def table(self, draw: Any, width: int = _TABLE_WIDTH) -> fx.Node:
        """A table [rows, width]: new, used before, a copy of one used before, or the same one under another name."""
        known = [name for name in self.tables if self.rows_of(name).shape[1] == width]
        kind = draw(st.sampled_from(["new", "tied", "tied", "copy", "alias"])) if known else "new"
        if kind == "tied":
            return self.read(draw(st.sampled_from(known)))
        rows = draw(st.one_of(st.integers(1, 6), st.sampled_from([2, 17, 300])))
        tensor = torch.randn(rows, width, generator=self.generator)
        held = torch.nn.Parameter(tensor)
        if kind == "copy":
            held = torch.nn.Parameter(self.rows_of(draw(st.sampled_from(known))).detach().clone())
        elif kind == "alias":  # the same parameter under a second name
            held = self.rows_of(draw(st.sampled_from(known)))  # type: ignore[assignment]
        name = f"table_{len(self.tables)}"
        self.tables.append(name)
        return self.builder.state(name, held)

    def read(self, name: str) -> fx.Node:
        """A read of existing state."""
        return self.builder.state(name, self.rows_of(name))

    def rows_of(self, name: str) -> torch.Tensor:
        """The tensor of a piece of state."""
        tensor: torch.Tensor = get_state(self.builder.root, name)
        return tensor

    def column(self, draw: Any) -> fx.Node:
        """One column of the ids, int64 [batch]."""
        return self.call(_aten.select.int, self.builder.inputs["ids"], 1, draw(st.integers(0, self.fields - 1)))

    def _reads(self) -> list[fx.Node]:
        return list(self.builder.graph.find_nodes(op="get_attr"))

    def _fresh(self, rank: int) -> fx.Node:
        """A value of a rank, made from the dense input."""
        dense = self.builder.inputs["dense"]
        if rank == 1:
            return self.call(_aten.select.int, dense, 1, 0)
        return self.call(_aten.unsqueeze.default, dense, 2) if rank == 3 else dense


def is_float(node: fx.Node) -> bool:
    """Whether a value is a float32 tensor."""
    held = node.meta.get("val")
    return isinstance(held, torch.Tensor) and held.dtype is torch.float32


def is_steady(node: fx.Node) -> bool:
    """Whether a value is computed from inputs and tables by operators of `_STEADY` alone."""
    if node.op != "call_function":
        return True
    return node.target in _STEADY and all(map(is_steady, node.all_input_nodes))


def sizes(node: fx.Node) -> list[str]:
    """The sizes of a value, as text, so that free sizes compare without being fixed."""
    return list(map(str, node.meta["val"].shape))


def width(node: fx.Node) -> int:
    """The last size of a value, which is not free."""
    size = node.meta["val"].shape[-1]
    assert isinstance(size, int)  # int() of a free size would fix it
    return size
