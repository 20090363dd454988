"""Predicted times on a GPU, from its clock rates: the time of a region, and whether an engine saves the cost of its call.

The constants are assumed, in the order of current data-centre GPUs, and have not been measured. They decide only whether a region is too
small for an engine; a plan is chosen by measuring.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.cost.default_machine import default_machine
from recfx.cost.estimate import Estimate
from recfx.cost.priors import prior
from recfx.cost.roofline import columns
from recfx.cost.sizes import Sizes
from recfx.cost.work import Work, work_of
from recfx.ir.region import Region

#: Seconds that torch takes to launch one operator, and that a call of an engine takes: checks, binding, and the launch.
LAUNCH, CALL = 5e-6, 30e-6
#: Seconds of a copy between the memories of the processor and the GPU, and its bytes per second.
COPY, COPY_RATE = 10e-6, 12e9
#: fp32 multiply-adds of one multiprocessor in a cycle.
_PER_CYCLE = 128
#: The uncertainty of a prediction, as a factor.
_SPREAD = 3.0


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The limits of a GPU.

    Attributes:
        flops: fp32 operations per second.
        bandwidth: Bytes per second of its memory.
    """

    flops: float = 30e12
    bandwidth: float = 300e9

    @staticmethod
    def of(properties: Any) -> Gpu:
        """The limits that follow from the clock rates of `torch.cuda.get_device_properties`; usual ones where it has none."""
        clock, memory, bus = (
            float(getattr(properties, name, 0) or 0) for name in ("clock_rate", "memory_clock_rate", "memory_bus_width")
        )
        usual = Gpu()
        return Gpu(
            2.0 * _PER_CYCLE * properties.multi_processor_count * clock * 1e3 or usual.flops,
            2.0 * memory * 1e3 * bus / 8 or usual.bandwidth,
        )


def seconds_of(work: tuple[Work, ...], gpu: Gpu) -> float:
    """The time of the operators of a region on a GPU: the larger of arithmetic and memory traffic, for each of them."""
    total = 0.0
    for part in work:
        read = sum(lookup.rows * lookup.row_bytes for lookup in part.lookups)
        total += max((part.moved + part.weights + read) / gpu.bandwidth, 2 * part.multiply_adds / gpu.flops)
    return total


def estimate(region: Region, rows: int, gpu: Gpu) -> Estimate:
    """The time of a region's operators in an engine, without the call."""
    seconds = seconds_of(work_of(region, rows), gpu)
    return Estimate(seconds, seconds / _SPREAD, seconds * _SPREAD)


def problem_of_size(region: Region, rows: int, gpu: Gpu) -> str:
    """Why an engine for the region would not pay for its call; "" if it would.

    Torch launches every operator; an engine is one call. Where the tensors of the model lie in the memory of the processor, torch
    computes there, and an engine needs copies.

    Args:
        region: The region.
        rows: The batch size.
        gpu: The GPU.
    """
    work = work_of(region, rows)
    inside = seconds_of(work, gpu)
    if _is_on_gpu(region):
        operators = sum(part.family != "view" for part in work)
        own, engine = operators * LAUNCH + inside, CALL + inside
    else:
        own = prior("eager").predict(columns(work, default_machine(torch.get_num_threads()))).seconds
        engine = CALL + inside + _copies(region, rows)
    if engine < own:
        return ""
    return f"a call of an engine costs more than these operators: {engine * 1e6:.0f} us against {own * 1e6:.0f} us are predicted"


def _is_on_gpu(region: Region) -> bool:
    held = [node.meta.get("val") for node in region.graph.nodes]
    return any(isinstance(value, torch.Tensor) and value.device.type == "cuda" for value in held)


def _copies(region: Region, rows: int) -> float:
    """The time of copying the inputs to the GPU and the outputs back."""
    sizes = Sizes.of_region(region, rows)
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    ends = [*region.placeholders(), *dict.fromkeys(value for value in returned if isinstance(value, fx.Node))]
    return sum(COPY + sizes.bytes(node.meta.get("val")) / COPY_RATE for node in ends)
