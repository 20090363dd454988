"""`Call`, one operator of a graph during its translation, and the registry of translations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.types import Untranslated, code_of

#: Results of an operator: one value, or one for each of its results (None for unused ones).
Results = str | Sequence[str | None]

F = TypeVar("F", bound="Callable[[Call], Results]")

#: Operator -> its translation.
RULES: dict[Any, Callable[[Call], Results]] = {}


def rule(*targets: Any) -> Callable[[F], F]:
    """Registers the translation of operators."""

    def register(function: F) -> F:
        for target in targets:
            if target in RULES:
                raise ValueError(f"{target} has two translations")
            RULES[target] = function
        return function

    return register


@dataclasses.dataclass(frozen=True)
class Call:
    """One operator during its translation.

    Attributes:
        graph: The model under construction.
        node: The operator.
        values: Node -> its value, or a list of values for an operator with several results.
        known: Node that reads the state -> its tensor.
    """

    graph: OnnxGraph
    node: fx.Node
    values: dict[fx.Node, Any]
    known: dict[fx.Node, torch.Tensor]

    @property
    def given(self) -> dict[str, Any]:
        """The arguments by the names of the operator's schema, defaults included."""
        target: Any = self.node.target
        declared = target._schema.arguments
        given = {a.name: a.default_value if a.has_default_value() else None for a in declared}
        given |= dict(zip((a.name for a in declared), self.node.args, strict=False))
        return given | dict(self.node.kwargs)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return self.node.args

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the schema."""
        return self.given[name]

    def value(self, argument: Any) -> str:
        """The value of a node."""
        found = self.values[argument]
        if not isinstance(found, str):
            raise Untranslated(f"{argument} has several results")
        return found

    def tensor(self, name: str) -> str:
        """The value of an argument that is a tensor."""
        return self.value(self[name])

    def optional(self, name: str) -> str | None:
        """The value of an argument that may be absent."""
        return None if self[name] is None else self.value(self[name])

    def fake(self, name: str) -> torch.Tensor:
        """The fake value of an argument that is a tensor."""
        return fake_of(self[name])

    @property
    def out(self) -> torch.Tensor:
        """The fake value of the result."""
        return fake_of(self.node)

    def cast(self, value: str, source: torch.dtype, wanted: torch.dtype) -> str:
        """A value in another type."""
        return value if source == wanted else self.graph.op("Cast", value, to=code_of(wanted))

    def as_type(self, argument: Any, dtype: torch.dtype) -> str:
        """A tensor, size or number in a type. Sizes and numbers have no dimensions."""
        if not isinstance(argument, fx.Node):
            return self.graph.scalar(argument, dtype)
        held = argument.meta.get("val")
        if isinstance(held, torch.Tensor):
            return self.cast(self.value(argument), held.dtype, dtype)
        if not isinstance(held, int | torch.SymInt):
            raise Untranslated("arithmetic with a number that is computed from sizes")
        return self.cast(self.graph.op("Squeeze", self.value(argument)), torch.int64, dtype)

    def constant(self, argument: Any) -> torch.Tensor | None:
        """The tensor of an argument that reads the state; None for a computed one."""
        return self.known.get(argument) if isinstance(argument, fx.Node) else None


def fake_of(node: Any) -> torch.Tensor:
    """The fake tensor of a node.

    Raises:
        Untranslated: The node's value is not one tensor.
    """
    held = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(held, torch.Tensor):
        raise Untranslated(f"expected a tensor, got {type(held).__name__}")
    return held


def dim_of(dim: int, tensor: torch.Tensor) -> int:
    """A dimension counted from the first."""
    return dim % max(tensor.ndim, 1)


def fixed(size: Any, what: str) -> int:
    """A size that must be fixed.

    Raises:
        Untranslated: It is free.
    """
    if isinstance(size, int):
        return size
    raise Untranslated(f"{what} of free size")
