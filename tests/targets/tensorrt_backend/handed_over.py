"""The TensorRT backend without a GPU: torch runs the graphs that TensorRT would get, on the processor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from recfx.ir.region import Region
from recfx.targets.tensorrt import TensorRTBackend
from recfx.targets.tensorrt.engine import Runner
from recfx.targets.tensorrt.handover import HandedOver
from recfx.targets.tensorrt.times import Gpu


class HandedOverBackend(TensorRTBackend):
    """Everything of the backend but the engine and the registry of converters.

    Args:
        registry: Whether torch-tensorrt is asked for its converters. Without, it is taken to have one for every operator.
        small: Whether small regions are lowered as well.
    """

    def __init__(self, *, registry: bool = False, small: bool = True) -> None:
        self.registry, self.small = registry, small
        self.built: list[HandedOver] = []

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "handed over"

    def slow_to_lower(self, region: Region) -> bool:
        return False

    def _converter(self, node: fx.Node) -> str:
        return super()._converter(node) if self.registry else ""

    def _problem_of_size(self, region: Region) -> str:
        return "" if self.small else super()._problem_of_size(region)

    def _engine(self, region: Region, handed: HandedOver) -> bytes:
        self.built.append(handed)
        return b"an engine"

    def _runner(self, engine: bytes, handed: HandedOver) -> Runner:
        module = handed.exported.program.module(check_guards=False)

        def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            assert [given.dtype for given in inputs] == handed.dtypes()
            with torch.no_grad():
                return tuple(module(*inputs))

        return run

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _gpu(self) -> Gpu:
        return Gpu()
