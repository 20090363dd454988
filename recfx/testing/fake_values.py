"""Fake values of graphs that are built by hand, each computed once.

A random graph spends most of its time in fake kernels with symbolic sizes, and graphs ask for the same operators of the same sizes again
and again. So graphs share one fake mode, with one symbol for each dimension name, and nodes that mean the same share one fake tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from recfx.ir.propagate import compute, fake_inputs

_Shapes = list[tuple[tuple[int | str, ...], torch.dtype, torch.device]]

#: The most values that are kept; beyond it, graphs get a new mode.
_MOST_VALUES = 20_000

_NO_STATE = torch.nn.Module()
_local = threading.local()


class FakeValues:
    """One fake mode, and the values computed in it.

    Attributes:
        mode: The fake mode.

    Values are shared by nodes, so a result that is a view may not share memory with its operand's fake value.
    """

    def __init__(self) -> None:
        (first,) = fake_inputs([(("batch",), torch.float32, torch.device("cpu"))])
        assert isinstance(first, FakeTensor)
        self.mode: FakeTensorMode = first.fake_mode
        self._sizes: dict[str, Any] = {"batch": first.shape[0]}
        self._made: dict[Hashable, Any] = {}
        self._described: dict[int, Hashable] = {}

    def usable(self) -> bool:
        """Whether no pass has fixed or bounded a size of the mode, and there is room for more values."""
        env = self.mode.shape_env
        assert env is not None
        return not env.guards and not env.replacements and len(self._made) < _MOST_VALUES

    def inputs(self, shapes: _Shapes) -> list[torch.Tensor]:
        """Fake inputs, as `recfx.ir.propagate.fake_inputs` makes them."""
        missing = [shape for shape in shapes if ("input", *shape) not in self._made]
        for shape, value in zip(missing, fake_inputs(missing, mode=self.mode, symbols=self._sizes), strict=True):
            self._keep(("input", *shape), value)
        return [self._made["input", *shape] for shape in shapes]

    def state(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake value of a parameter or buffer."""
        if tensor.layout is not torch.strided:
            return self.mode.from_tensor(tensor, static_shapes=True)
        key = ("state", type(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad)
        if key not in self._made:
            self._keep(key, self.mode.from_tensor(tensor, static_shapes=True))
        value: torch.Tensor = self._made[key]
        return value

    def result(self, node: fx.Node) -> Any:
        """The fake value of an operator, from the fake values of its arguments.

        Raises:
            VerificationError: The operator rejects its arguments.
        """
        key = (node.target, self._describe(fx.map_arg((node.args, node.kwargs), _recorded)))
        if key not in self._made:
            value = compute(node, _NO_STATE, _recorded, self.mode)
            if any(free_unbacked_symbols(leaf) for leaf in torch.utils._pytree.tree_leaves(value) if _sized(leaf)):
                return value  # each node has data-dependent sizes of its own
            self._keep(key, value)
        return self._made[key]

    def _keep(self, key: Hashable, value: Any) -> None:
        self._made[key] = value
        for leaf in torch.utils._pytree.tree_leaves(value):
            if isinstance(leaf, torch.Tensor):  # `_made` keeps it alive, so that its id is not reused
                self._described[id(leaf)] = _described(leaf)

    def _describe(self, value: Any) -> Hashable:
        """The facts that a result depends on: dtype, sizes and strides of tensors; value and type of constants."""
        if isinstance(value, torch.Tensor):
            return self._described.get(id(value)) or _described(value)
        if isinstance(value, list | tuple):
            return tuple(map(self._describe, value))
        if isinstance(value, dict):
            return tuple((name, self._describe(entry)) for name, entry in value.items())
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return ("symbol", str(value))
        return (type(value), repr(value) if isinstance(value, float) else value)


def shared_values() -> FakeValues:
    """The values that graphs of this thread share now."""
    values: FakeValues | None = getattr(_local, "values", None)
    if values is None or not values.usable():
        values = _local.values = FakeValues()
    return values


def _recorded(node: fx.Node) -> Any:
    return node.meta["val"]


def _described(tensor: torch.Tensor) -> Hashable:
    sizes = tuple(map(str, tensor.shape))
    strides = tuple(map(str, tensor.stride())) if tensor.layout is torch.strided else ()
    return (tensor.dtype, sizes, strides, tensor.layout, type(tensor), tensor.requires_grad)


def _sized(value: Any) -> bool:
    return isinstance(value, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)
