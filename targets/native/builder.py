"""The builder of a plan: its slots, its steps, and the place of every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from recfx.ir.program import get_state
from recfx.kernels.abi import DTYPES
from recfx.kernels.codes import Kind, Place, Size
from recfx.targets.native.concatenations import columns_of
from recfx.targets.native.steps import Slot, Step, View
from recfx.targets.native.undo import Undoable
from recfx.targets.native.values import Dim, Unsupported, Value, contiguous, merge, mixed_like, shape_of
from recfx.targets.native.weights import Packer, shape_only

T = TypeVar("T")


class PlanBuilder(Undoable):
    """Collects the steps of one plan.

    Args:
        module: Holds the constants.
        packer: Packs the weights, for all plans of a program.
        batch: The batch's symbol, None when all sizes are fixed.
        inside: Whether a node may belong to this plan. Producers write directly into the buffers of concatenations that may.
        dry: True for a plan that never runs. Rules then get the shapes of constants in place of their tensors.

    Attributes:
        parts: Node with several tensors as its result -> their places.
        lowered: The nodes that the plan computes.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        packer: Packer,
        batch: Any,
        inside: Callable[[fx.Node], bool],
        *,
        dry: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.batch = batch
        self.packer = packer
        self.dry = dry
        self.parts: dict[fx.Node, list[Value]] = {}
        self.lowered: dict[fx.Node, None] = {}
        self._inside = inside
        self._jagged: dict[fx.Node, int] = {}
        self._known: dict[Any, Any] = {}

    def known(self, key: Any, compute: Callable[[], T]) -> T:
        """A fact about the program, which is computed once for each plan. Rules ask for the same facts for every part of a node."""
        if key not in self._known:
            self._known[key] = compute()
        found: T = self._known[key]
        return found

    def value(self, node: Any, *, mixed: bool = False) -> Value:
        """The place of a node's tensor. A node outside of the plan becomes an input, state a constant.

        Args:
            node: The node.
            mixed: Whether the caller can read a value whose batch lies inside a dimension (`Dim.before`).

        Raises:
            Unsupported: It is not a tensor, or no slot can hold it.
        """
        if not isinstance(node, fx.Node):
            raise Unsupported(f"{node!r} is not a tensor of the graph")
        if node not in self.values:
            self.values[node] = self._constant(node) if node.op == "get_attr" else self._input(node)
        if self.values[node].mixed and not mixed:
            raise Unsupported(f"the batch lies inside a dimension of {node}")
        return self.values[node]

    def tensor(self, node: Any) -> torch.Tensor:
        """The tensor of a constant.

        Raises:
            Unsupported: It is not state of the program.
        """
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise Unsupported(f"{node} is not a constant")
        state = get_state(self.module, str(node.target))
        if not isinstance(state, torch.Tensor):
            raise Unsupported(f"{node} is not a tensor")
        return shape_only(state) if self.dry else state.detach().resolve_neg()

    def dtype(self, value: Value) -> torch.dtype:
        """The dtype of a value."""
        return self.slots[value.slot].dtype

    def shape(self, node: fx.Node) -> list[Dim]:
        """The dimensions of a node's tensor. Their strides are not set."""
        held = node.meta.get("val")
        if not isinstance(held, torch.Tensor):
            raise Unsupported(f"{node} is not a single tensor")
        if held.device.type != "cpu" or held.layout is not torch.strided:
            raise Unsupported(f"{node} is not a dense tensor in main memory")
        return list(self.known(("shape", node), lambda: shape_of(held.shape, self.batch)))

    def result(
        self,
        node: fx.Node,
        *,
        anywhere: bool = False,
        dtypes: Sequence[torch.dtype] = (torch.float32, torch.bool),
        like: Sequence[Value] = (),
    ) -> Value:
        """The place to which a step writes a node's tensor.

        Args:
            node: The node.
            anywhere: Whether the step can write rows with gaps between them. The place may then be in the buffer of a concatenation.
            dtypes: The dtypes that the step can write.
            like: Inputs. If their batch lies inside a dimension, the output's batch lies there too.
        """
        held: torch.Tensor = node.meta["val"]
        if held.dtype not in dtypes:
            raise Unsupported(f"its result is {held.dtype}")
        if any(v.mixed for v in like):
            return self.temp(mixed_like(self.shape(node), like), held.dtype)
        if anywhere and held.dtype is torch.float32:
            placed = self._place_in_concatenation(node)
            if placed is not None:
                return placed
        return self.temp(self.shape(node), held.dtype)

    def temp(self, shape: Sequence[Dim], dtype: torch.dtype = torch.float32) -> Value:
        """A new temporary of the given shape."""
        value = contiguous(len(self.slots), shape)
        self.slots.append(Slot(Place.TEMP, dtype, value.width, not value.batched))
        return value

    def jagged(self, node: fx.Node) -> int:
        """The slot of an input that is read by position: values or offsets of a jagged feature."""
        number = self._jagged.get(node)
        if number is not None and number < len(self.slots) and self.slots[number].node is node:
            return number
        held: torch.Tensor = node.meta["val"]
        if held.ndim != 1 or held.dtype not in DTYPES or node in self.lowered:
            raise Unsupported(f"{node} cannot be read by position")
        self._jagged[node] = len(self.slots)
        self.slots.append(Slot(Place.INPUT, held.dtype, 0, True, node=node, jagged=True))
        return self._jagged[node]

    def emit(
        self, kind: Kind, out: Value, out_runs: Sequence[tuple[int, int]], views: Mapping[Any, View], **rest: Any
    ) -> None:
        """Adds a step. `views` and the rest name arguments by the enumerations of `recfx.kernels.slots` that belong to the kind."""
        step = Step(kind, not out.batched, dict(views), view(out, out_runs), **rest)
        self.add_step(step)

    def _constant(self, node: fx.Node) -> Value:
        return self.constant(self.tensor(node).contiguous())

    def constant(self, tensor: torch.Tensor) -> Value:
        """The place of a contiguous tensor that is the same in every call."""
        if tensor.dtype not in DTYPES:
            raise Unsupported(f"one of its constants is {tensor.dtype}")
        if tensor.device.type not in (("cpu", "meta") if self.dry else ("cpu",)):
            raise Unsupported("one of its constants is not on the CPU")
        value = contiguous(len(self.slots), [Dim(s, 0) for s in tensor.shape])
        self.slots.append(Slot(Place.CONST, tensor.dtype, tensor.numel(), True, data=tensor))
        return value

    def _input(self, node: fx.Node) -> Value:
        if node in self.lowered:
            raise Unsupported(f"{node} has no slot in this plan")
        shape = self.shape(node)
        held: torch.Tensor = node.meta["val"]
        if held.dtype not in DTYPES:
            raise Unsupported(f"one of its inputs is {held.dtype}")
        if any(d.batch for d in shape[1:]):
            raise Unsupported(f"the batch is not the first dimension of {node}")
        value = contiguous(len(self.slots), shape)
        self.slots.append(Slot(Place.INPUT, held.dtype, value.width, not value.batched, node=node))
        return value

    def _place_in_concatenation(self, node: fx.Node) -> Value | None:
        """The columns of the first concatenation in this plan that reads a node; None without one."""
        for user in node.users:
            if user in self.values or not self._inside(user):
                continue
            found = self._columns(user).get(node)
            if found is None:
                continue
            dim, start = found
            own, shape = self.shape(node), self.shape(user)
            if not any(d.batch for d in own):
                continue
            if user not in self.placements:
                self.placements[user] = self.temp(shape)
            whole = self.placements[user]
            dims = tuple(Dim(d.size, w.stride, d.batch) for d, w in zip(own, whole.dims, strict=True))
            return Value(whole.slot, whole.offset + start * whole.dims[dim].stride, dims)
        return None

    def _columns(self, user: fx.Node) -> dict[fx.Node, tuple[int, int]]:
        def compute() -> dict[fx.Node, tuple[int, int]]:
            try:
                return columns_of(self.shape, user)
            except Unsupported:
                return {}

        return self.known(("columns", user), compute)

    def placed(self, node: fx.Node) -> Value | None:
        """The buffer of a concatenation into which producers have written; None when none has."""
        return self.placements.get(node)


def view(value: Value, runs: Sequence[tuple[int, int]]) -> View:
    """A view of a value's slot with the given runs."""
    if len(runs) > Size.RANK:
        raise Unsupported(f"it has more than {Size.RANK} dimensions")
    return View(value.slot, value.offset, tuple(runs))


def rows_of(value: Value) -> View:
    """A value as rows of its last dimension: [rows, n].

    Raises:
        Unsupported: The last dimension is not contiguous or is the batch, or the rows are not evenly spaced.
    """
    last = value.dims[-1]
    if last.batch or (last.stride != 1 and last.size != 1):
        raise Unsupported("the last dimension is not contiguous")
    runs = merge(value.dims[:-1])
    if len(runs) > 1:
        raise Unsupported("its rows are not evenly spaced")
    return view(value, [runs[0] if runs else (1, last.size), (last.size, 1)])


def three_runs(value: Value, dims: list[int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """(outer, reduced, inner) as one run each; None when they are not evenly spaced."""
    runs = []
    for part in (value.dims[: dims[0]], value.dims[dims[0] : dims[-1] + 1], value.dims[dims[-1] + 1 :]):
        merged = merge(part)
        if len(merged) > 1:
            return None
        runs.append(merged[0] if merged else (1, 1))
    outer, reduced, inner = runs
    if inner[0] > 1 and inner[1] != 1:
        return None
    return outer, reduced, inner
