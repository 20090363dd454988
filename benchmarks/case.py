"""What a benchmark case is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_ROOM = 1.5  # copies that peers make of tables, beside the model's own


class Inputs(Protocol):
    """Draws inputs for a model."""

    def __call__(self, model: Any, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
        """Positional inputs of `batch` rows; the first dimension of every tensor is the batch.

        Args:
            model: What `Case.build` returned.
            batch: Rows.
            zipf: Exponent of the ids' distribution; None for uniform ids.
            seed: Seed of the draw.
        """


def example_inputs(model: Any, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    """The inputs the model itself offers."""
    inputs: tuple[Tensor, ...] = model.example_inputs(batch, zipf=zipf, seed=seed)
    return inputs


@dataclasses.dataclass(frozen=True)
class Case:
    """A model at a given size, and the inputs to run it on.

    Attributes:
        name: What it is called on the command line.
        summary: Its sizes in one line, and where they come from; says so when rows were capped.
        build: Makes the model; called with a fixed seed.
        gigabytes: What its parameters occupy, roughly.
        inputs: Draws inputs.
        large: Whether it runs only when named.
    """

    name: str
    summary: str
    build: Callable[[], nn.Module]
    gigabytes: float
    inputs: Inputs = example_inputs
    large: bool = False

    def model(self) -> nn.Module:
        """The model in eval mode, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().eval()

    def unfit(self) -> str | None:
        """Why it cannot run here, or None."""
        free = _available_gigabytes()
        if free is not None and self.gigabytes * _ROOM > free:
            return f"needs about {self.gigabytes * _ROOM:.1f} GB of memory, {free:.1f} GB are free"
        return None


def _available_gigabytes(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Memory that can be had without swapping; None where the system does not say."""
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return None


def table_gigabytes(rows: Sequence[int], dim: int) -> float:
    """What fp32 tables occupy."""
    return sum(rows) * dim * 4 / 1e9
