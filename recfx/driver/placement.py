"""`Placement`: the backend of each region of a compiled model, and the operators that torch runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recfx.driver.parts import Parts
from recfx.driver.torch_operators import TorchOperator, described


class Placement(dict[str, str]):
    """Region -> backend. Its text also names the operators that torch runs, with reasons and shares of the time.

    Attributes:
        torch_operators: The operators that torch runs although the target has other backends.
        kept_eager: Whether the user's own model runs instead, since it measured faster.
    """

    def __init__(
        self, regions: Mapping[str, str], torch_operators: Sequence[TorchOperator] = (), *, kept_eager: bool = False
    ) -> None:
        super().__init__(regions)
        self.torch_operators = tuple(torch_operators)
        self.kept_eager = kept_eager

    def __repr__(self) -> str:
        lines = [f"{region}: {backend}" for region, backend in self.items()]
        if self.kept_eager:
            lines.insert(0, "your own model runs, which measured faster than:")
        if self.torch_operators:
            lines += ["operators that torch runs:", *(f"  {line}" for line in described(self.torch_operators))]
        return "\n".join(lines)


def placement(parts: Parts) -> Placement:
    """The placement of a model, including its plan for a batch of one row."""
    regions = {f"region {i}": region.backend for i, region in enumerate(parts.regions)}
    operators = parts.report.in_torch
    if parts.one_row is not None:
        regions |= {f"one row, region {i}": region.backend for i, region in enumerate(parts.one_row.regions)}
        operators += parts.one_row.report.in_torch
    return Placement(regions, operators, kept_eager=parts.report.kept_eager)
