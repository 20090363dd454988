"""Lowers small modules at a chosen instruction-set level."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import fx

import recfx.passes  # noqa: F401 - registers the passes
from recfx.capture import capture
from recfx.driver.placed import lower_regions
from recfx.ir import Program
from recfx.ir.region import Region, split
from recfx.kernels.library import library, missing
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.runtime.schedule import joined
from recfx.targets import EagerBackend, NativeBackend

needs_kernels = pytest.mark.skipif(missing() is not None, reason=str(missing()))
LEVELS = () if missing() else library().levels
seeds = st.integers(0, 2**32)
relaxed = settings(deadline=None, max_examples=12)


class Module(torch.nn.Module):
    """A function of tensors with state of its own."""

    def __init__(self, function: Callable[..., Any], state: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.function = function
        for i, tensor in enumerate(state):
            self.register_buffer(f"state{i}", tensor)
        self.count = len(state)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs, *(getattr(self, f"state{i}") for i in range(self.count)))


def program_of(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], state: Sequence[torch.Tensor] = (), **how: Any
) -> Program:
    """The captured program of a function of some inputs and constants."""
    return Pipeline("canonicalize").run(_captured(function, inputs, state, **how)).program


def program_with(target: Any, function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Program:
    """As `program_of`, but not canonicalised, for operators that canonicalize replaces."""
    program = program_of(function, inputs)
    return program if any(n.target is target for n in program.graph.nodes) else _captured(function, inputs)


def _captured(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], state: Sequence[torch.Tensor] = (), **how: Any
) -> Program:
    return capture(Module(function, state).eval(), tuple(inputs), {}, **how)


@dataclasses.dataclass(frozen=True)
class Partition:
    """A program on the native backend; torch runs the operators that it does not support.

    Attributes:
        region: All regions as one graph.
        plans: The number of its plans.
        refused: Node -> why torch runs it.
    """

    region: Region
    plans: int
    refused: dict[fx.Node, str]

    @property
    def calls(self) -> list[fx.Node]:
        """The calls of plans."""
        return [node for node in self.region.graph.nodes if hasattr(node.target, "plan")]


def partition(program: Program, level: str) -> Partition:
    """The program lowered at a level."""
    before = os.environ.get("RECFX_LEVEL")
    os.environ["RECFX_LEVEL"] = level
    try:
        native, eager = NativeBackend(), EagerBackend()
        verdicts = native.supports(program)
        chosen = {node: (native if verdict else eager) for node, verdict in verdicts.items()}
        found = split(program, {node: backend.name for node, backend in chosen.items()}, "native")
        backends = {native.name: native, eager.name: eager}
        lowered = lower_regions(found, lambda index, region: backends[found.backends[index]].lower(region))
    finally:
        if before is None:
            del os.environ["RECFX_LEVEL"]
        else:
            os.environ["RECFX_LEVEL"] = before
    region = joined(found, [region.body for region in lowered])
    refused = {node: verdict.reason for node, verdict in verdicts.items() if not verdict}
    made = Partition(region, 0, refused)
    return dataclasses.replace(made, plans=len(made.calls))


def lower(program: Program, level: str = "") -> Callable[..., tuple[Any, ...]]:
    """The lowered program; fails if torch runs any of its operators."""
    made = partition(program, level or LEVELS[0])
    assert not made.refused, {n.name: reason for n, reason in made.refused.items()}
    return flat_function(made.region)


def lower_everywhere(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], state: Sequence[torch.Tensor] = (), **how: Any
) -> list[Callable[..., tuple[Any, ...]]]:
    """A function lowered at every level this processor runs."""
    program = program_of(function, inputs, state, **how)
    return [lower(program, level) for level in LEVELS]


def generator(seed: int) -> torch.Generator:
    """A random generator with a drawn seed."""
    return torch.Generator().manual_seed(seed)


def closer_than(found: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, factor: float = 8.0) -> None:
    """Asserts that the error against float64 is at most `factor` times torch's own error plus a few last bits."""
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    allowed = factor * float((plain.double() - exact).abs().max()) + 16 * torch.finfo(torch.float32).eps * scale
    worst = float((found.double() - exact).abs().max())
    assert worst <= allowed, f"{worst:.3g} > {allowed:.3g}"


def near(
    function: Callable[..., Any],
    inputs: list[torch.Tensor],
    state: list[torch.Tensor],
    rtol: float,
    atol: float,
    **how: Any,
) -> None:
    """Asserts that at every level a kernel gives the result of its reference, and that a second call, which reads
    weights backward, gives the same bits."""
    expected = function(*inputs, *state)
    for run in lower_everywhere(function, inputs, state, **how):
        (found,), (again,) = run(*inputs), run(*inputs)
        torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, equal_nan=True)
        torch.testing.assert_close(again, found, rtol=0, atol=0, equal_nan=True)


def drawn(data: st.DataObject, low: int, high: int) -> int:
    return data.draw(st.integers(low, high))
