"""Cases of the dialect's operators: programs of one operator with a free batch, and constants for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.ir.operators import DIALECT
from recfx.ir.program import Program
from recfx.testing.builder import GraphBuilder

Draw = Any
Leaves = Callable[[int, torch.Generator], list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program of one operator.

    Attributes:
        program: The program.
        leaves: Number of rows -> flat inputs.
    """

    program: Program
    leaves: Leaves


class References(fx.Interpreter):
    """Runs a program with the references of its operators, regardless of registered kernels."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(DIALECT.get(target, target), args, kwargs)


#: Operator -> the function that draws its cases.
CASES: dict[Any, Callable[[Draw], Case]] = {}


def cases(operator: Any) -> Callable[[Callable[[Draw], Case]], Callable[[Draw], Case]]:
    """Registers a function that draws cases of an operator."""

    def enter(function: Callable[[Draw], Case]) -> Callable[[Draw], Case]:
        CASES[operator] = function
        return function

    return enter


def generator_of(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="seed"))


class State:
    """Adds constants to a graph and numbers them."""

    def __init__(self, builder: GraphBuilder, rng: torch.Generator) -> None:
        self._builder, self.rng = builder, rng
        self.nodes: list[Any] = []

    def add(self, tensor: torch.Tensor) -> int:
        self.nodes.append(self._builder.state(f"state_{len(self.nodes)}", tensor))
        return len(self.nodes) - 1

    def normal(self, *shape: int) -> int:
        return self.add(torch.randn(shape, generator=self.rng))

    def matrix(self, draw: Draw, rows: int, columns: int) -> tuple[int, int]:
        """A weight in one of the formats, and its scale or -1."""
        kind = draw(st.sampled_from(["float32", "bfloat16", "int8"]), label="weight")
        if kind == "int8":
            codes = torch.randint(-127, 128, (rows, columns), generator=self.rng).to(torch.int8)
            return self.add(codes), self.add(torch.rand(rows, generator=self.rng) / 64 + 0.01)
        return self.add(torch.randn(rows, columns, generator=self.rng).to(getattr(torch, kind))), -1

    def factors(self, draw: Draw, columns: int) -> int:
        """Factors of the columns of an int8 layer's input, or -1."""
        if not draw(st.booleans(), label="factors"):
            return -1
        return self.add(torch.exp2(-torch.randint(0, 12, (columns,), generator=self.rng).float()))


_SPECIALS = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan, 1e-39, -1e-42])


def numbers(shape: tuple[int, ...], rng: torch.Generator, specials: bool) -> torch.Tensor:
    """Normal numbers; with `specials`, some rows are scaled to tiny numbers, and some elements are special numbers."""
    found = torch.randn(shape, generator=rng)
    if specials:
        found[::3] *= 1e-37
        chosen = _SPECIALS[torch.randint(len(_SPECIALS), shape, generator=rng)]
        found[1::2] = torch.where(torch.rand(shape, generator=rng) < 0.3, chosen, found)[1::2]
    return found
