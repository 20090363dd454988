"""Programs built by hand, without capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.errors import VerificationError
from recfx.ir.dead_code import remove_dead_code
from recfx.ir.leaves import LeafSpec
from recfx.ir.program import Program, set_state
from recfx.ir.signature import Signature
from recfx.ir.sizes import dimension_names
from recfx.ir.verified import remember
from recfx.testing.fake_values import shared_values
from recfx.testing.inputs import random_leaves

Shape = Sequence[int | str]


class GraphBuilder:
    """Builds a program operator by operator.

        b = GraphBuilder({"x": ("batch", 4)})
        y = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(3, 4)))
        program = b.build(y)

    Args:
        inputs: Input name -> shape, or (shape, dtype); sizes are integers, dimension names (the batch being "batch") or
            expressions over them.
        max_batch: The largest batch.
    """

    def __init__(self, inputs: Mapping[str, Shape | tuple[Shape, torch.dtype]], *, max_batch: int = 65536) -> None:
        self._root = torch.nn.Module()
        self.graph = fx.Graph()
        self.inputs: dict[str, fx.Node] = {}
        self._reads: dict[str, fx.Node] = {}
        self._max_batch = max_batch
        described = {name: _split(given) for name, given in inputs.items()}
        cpu = torch.device("cpu")
        self._values = shared_values()
        fakes = self._values.inputs([(tuple(shape), dtype, cpu) for shape, dtype in described.values()])
        for name, fake in zip(described, fakes, strict=True):
            node = self.graph.placeholder(name)
            node.meta["val"] = fake
            self.inputs[name] = node
        self._leaves = tuple(
            LeafSpec(name, "tensor", dtype, cpu, tuple(shape)) for name, (shape, dtype) in described.items()
        )

    @property
    def root(self) -> torch.nn.Module:
        """The module that holds the state."""
        return self._root

    def state(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Stores a parameter, buffer or constant and inserts a read of it; a name that is known gives its existing read."""
        if name not in self._reads:
            set_state(self._root, name, tensor)
            node = self.graph.get_attr(name)
            node.meta["val"] = self._values.state(tensor)
            self._reads[name] = node
        return self._reads[name]

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Inserts an operator and computes its fake value.

        Raises:
            VerificationError: The operator rejects its arguments.
        """
        node = self.graph.call_function(target, args, kwargs)
        try:
            node.meta["val"] = self._values.result(node)
        except VerificationError:
            self.graph.erase_node(node)
            raise
        remember(node)
        return node

    def build(self, *outputs: fx.Node, seed: int = 0, batch: int = 3) -> Program:
        """Builds the program that returns these nodes, as one tensor or a tuple.

        Args:
            *outputs: The nodes it returns.
            seed: Seed of the example inputs.
            batch: Rows of the example inputs; other dimensions are one, two, ... longer.
        """
        self.graph.output(tuple(outputs))
        remove_dead_code(self.graph)
        self.graph.lint()
        module = fx.GraphModule(self._root, self.graph)
        result: Any = tuple(range(len(outputs))) if len(outputs) != 1 else 0
        signature = Signature(
            parameters=tuple(self.inputs),
            defaults={},
            in_spec=pytree.tree_flatten((tuple(range(len(self.inputs))), {}))[1],
            out_spec=pytree.tree_flatten(result)[1],
            leaves=self._leaves,
            dims={name: (1, self._max_batch if name == "batch" else None) for name in _dimensions(self._leaves)},
        )
        program = Program(module, signature, (), properties=frozenset({"functional"}))
        program.example = tuple(random_leaves(program, batch, torch.Generator().manual_seed(seed)))
        return program


def _dimensions(leaves: Sequence[LeafSpec]) -> list[str]:
    """The dimension names in the leaves' sizes, the batch first."""
    found = {name: None for leaf in leaves for size in leaf.shape for name in dimension_names(size)}
    return sorted(found, key=lambda name: name != "batch")


def _split(given: Any) -> tuple[Shape, torch.dtype]:
    if len(given) == 2 and isinstance(given[1], torch.dtype):
        return given[0], given[1]
    return given, torch.float32
