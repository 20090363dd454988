"""The job of a peer, and the store that the peers of a case share."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.budget import OverBudget

Inputs = tuple[Tensor, ...]
T = TypeVar("T")

_TRACED_ROWS = 8
_CALIBRATION = (16, 32)  # draws, rows


class Store:
    """Values that are made once for a case and used again: exported programs, converted files. Use it as a context
    manager.

    Attributes:
        reused: The seconds that reused values took when they were made; the caller resets it to 0.
    """

    def __init__(self) -> None:
        self.reused = 0.0
        self._made: dict[object, tuple[Any, BaseException | None, float]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="recfx-benchmark-", ignore_cleanup_errors=True)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.clear()
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """A folder for files; it is deleted at the end of the case."""
        return Path(self._folder.name)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Returns the result of the first call of `make` with this key, or raises its error again, so that a slow
        failure happens only once."""
        if key in self._made:
            self.reused += self._made[key][2]
        else:
            self._made[key] = self._make(make)
        value, error, _ = self._made[key]
        if error is not None:
            raise error
        made: T = value
        return made

    def _make(self, make: Callable[[], T]) -> tuple[T | None, BaseException | None, float]:
        start, reused = time.perf_counter(), self.reused
        value: T | None = None
        failed: BaseException | None = None
        try:
            value = make()
        except (Exception, OverBudget) as error:  # noqa: BLE001 - kept, and raised again by `once`
            failed = error.with_traceback(None)  # the frames of the traceback would keep tables alive
        return value, failed, time.perf_counter() - start + self.reused - reused


@dataclasses.dataclass(frozen=True)
class Job:
    """One model at one point.

    Attributes:
        model: The model, in eval mode; peers must not change it.
        sets: Positional inputs to rotate through, all of the point's batch size.
        draw: Rows, seed -> other inputs of the same distribution, for tracing and calibration.
        store: Values that the peers of the case share.
        threads: Number of threads; torch's own number is set already.
        request: Positions of the inputs of the request, whose rows are all equal.
    """

    model: nn.Module
    sets: Sequence[Inputs]
    draw: Callable[[int, int], Inputs]
    store: Store
    threads: int = 1
    request: tuple[int, ...] = ()

    @property
    def inputs(self) -> Inputs:
        """The first of the sets."""
        return self.sets[0]

    def calibration(self) -> list[Inputs]:
        """Inputs for calibration, which differ from the timed inputs."""
        draws, rows = _CALIBRATION
        return [self.draw(rows, 1_000 + draw) for draw in range(draws)]

    def exported(self) -> torch.export.ExportedProgram:
        """The model exported with a free batch."""
        return self.store.once("exported", lambda: self.traced(self.model))

    def traced(self, model: nn.Module) -> torch.export.ExportedProgram:
        """A model that takes the same inputs, exported with a free batch."""
        return export(model, self.draw(_TRACED_ROWS, 1))


def export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """Exports a model whose inputs all begin with the batch.

    Args:
        model: A model in eval mode.
        inputs: Inputs of two or more rows; torch would treat a batch of one as a constant.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    with torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
