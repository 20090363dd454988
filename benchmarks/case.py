"""The interface of benchmark cases."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_ROOM = 1.5  # copies of the tables that peers make, in addition to the model's own


class Inputs(Protocol):
    """Draws inputs for a model."""

    def __call__(self, model: Any, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
        """Draws positional inputs of `batch` rows; the first dimension of every tensor is the batch.

        Args:
            model: The result of `Case.build`.
            batch: Rows.
            zipf: Exponent of the ids' distribution; None for uniform ids.
            seed: Seed of the draw.
        """


def example_inputs(model: Any, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    """Draws the model's own example inputs."""
    inputs: tuple[Tensor, ...] = model.example_inputs(batch, zipf=zipf, seed=seed)
    return inputs


@dataclasses.dataclass(frozen=True)
class Case:
    """A model at a given size, and the inputs to run it on.

    Attributes:
        name: Its name on the command line.
        summary: Its sizes in one line, with their source, and the cap of rows if rows were capped.
        build: Makes the model; called with a fixed seed.
        gigabytes: The approximate size of its parameters.
        inputs: Draws inputs.
        large: Whether it runs only when named.
        request: Parameters of `forward` that belong to the request: a batch is one request with many candidates, and
            all rows of these inputs are equal.
        split: Model, candidates -> floating-point operations that algebra saves in request mode, in addition to whole
            operators that do not depend on the candidates: the request's share of an operator that depends on both.
        max_batch: The largest batch of a run.
    """

    name: str
    summary: str
    build: Callable[[], nn.Module]
    gigabytes: float
    inputs: Inputs = example_inputs
    large: bool = False
    request: tuple[str, ...] = ()
    split: Callable[[Any, int], int] | None = None
    max_batch: int | None = None

    def model(self) -> nn.Module:
        """The model in eval mode, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().eval()

    def request_positions(self, model: nn.Module) -> tuple[int, ...]:
        """The positions of the request's inputs among the positional inputs."""
        names = list(inspect.signature(model.forward).parameters)
        return tuple(names.index(name) for name in self.request)

    def sets(self, model: nn.Module, batch: int, count: int, zipf: float | None, seed: int) -> list[tuple[Tensor, ...]]:
        """Draws several inputs of the same batch size.

        Args:
            model: The result of `model`.
            batch: Rows of each input.
            count: The number of inputs.
            zipf: Exponent of the ids' distribution; None for uniform ids.
            seed: Seed of the draw.
        """
        drawn = self.inputs(model, batch * count, zipf, seed)
        request = self.request_positions(model)

        def part(position: int, start: int) -> Tensor:
            if position in request:
                row = drawn[position][start : start + 1]
                return row.repeat(batch, *[1] * (row.dim() - 1))
            # A clone, because the allocator aligns it; a slice may not be aligned.
            return drawn[position][start : start + batch].clone()

        starts = range(0, batch * count, batch)
        return [tuple(part(position, start) for position in range(len(drawn))) for start in starts]

    def too_large(self, batch: int) -> str | None:
        """Why it does not run with a batch, or None."""
        if self.max_batch is None or batch <= self.max_batch:
            return None
        return f"not run with more than {self.max_batch} rows, for the memory and the time it would take"

    def unfit(self) -> str | None:
        """Why it cannot run here, or None."""
        free = available_gigabytes()
        if free is not None and self.gigabytes * _ROOM > free:
            return f"needs about {self.gigabytes * _ROOM:.1f} GB of memory, {free:.1f} GB are free"
        return None


def available_gigabytes(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Memory that is available without swapping; None if the system does not report it."""
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return None


def table_gigabytes(rows: Sequence[int], dim: int) -> float:
    """The size of fp32 tables."""
    return sum(rows) * dim * 4 / 1e9
