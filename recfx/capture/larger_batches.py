"""What a model does with larger batches than its trace holds for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from recfx.capture.crosscheck import agree, run_model
from recfx.capture.inputs import Call
from recfx.ir.batch_axes import batch_axis
from recfx.ir.probes import reshuffle
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

#: Batch sizes for one more trace, which shows a branch on the batch size; the largest with at most `_MOST_ENTRIES` inputs is taken.
_LARGE_BATCHES = (4099, 2053, 1031, 521, 257, 131, 67, 41)
_MOST_ENTRIES = 1 << 24


def largest_alike(alike: Callable[[int], bool], known: int, most: int, entries: int) -> int:
    """The largest batch that a model computes as it computes small ones. Traces of fixed shapes do not record a branch on the batch size.

    Args:
        alike: Whether the trace of a batch size has the same operators as those of small ones.
        known: A batch size that has.
        most: The largest batch.
        entries: The entries of the inputs for each row.
    """
    large = next((n for n in _LARGE_BATCHES if known < n <= most and n * entries <= _MOST_ENTRIES), None)
    if large is None or alike(large):
        return most
    while large - known > 1:
        middle = (known + large) // 2
        known, large = (middle, large) if alike(middle) else (known, middle)
    return known


def same_in_parts(program: Program, model: torch.nn.Module, call: Call) -> bool:
    """Whether the model gives for a batch above the largest one of its program what it gives for the parts of that batch.

    A model that computes its batch in pieces does, and one that takes another branch for large batches does not.

    Args:
        program: The program.
        model: The user's model.
        call: The example call.
    """
    specs = program.signature.leaves
    most = program.signature.dims[BATCH][1] or 0
    held = sum(leaf.numel() for leaf in program.example if isinstance(leaf, torch.Tensor))
    rows = program.example_batch() or 1
    free = [sum(isinstance(size, str) for size in spec.shape) for spec in specs]
    if program.bags or program.long_call is not None or 3 * most * held > _MOST_ENTRIES * rows:
        return False
    if any(
        spec.kind == "size" or count != (batch_axis(spec) is not None) for spec, count in zip(specs, free, strict=True)
    ):
        return False
    return all(_agrees(program, model, call, batch) for batch in (most + 1, 2 * most + 1))


def _agrees(program: Program, model: torch.nn.Module, call: Call, batch: int) -> bool:
    most = program.signature.dims[BATCH][1] or 1
    leaves = reshuffle(program, batch, torch.Generator().manual_seed(batch))
    count = -(-batch // most)
    bounds = [part * batch // count for part in range(count + 1)]
    try:
        with torch.no_grad():
            whole = run_model(model, call, leaves)
            parts = [run_model(model, call, _cut(program, leaves, *ends)) for ends in itertools.pairwise(bounds)]
    except Exception:  # noqa: BLE001 - a model that refuses so many rows gives nothing for them
        return False
    joined = [_joined(list(outputs)) for outputs in zip(*parts, strict=True)]
    return agree(whole, joined)


def _cut(program: Program, leaves: Sequence[Any], start: int, end: int) -> list[Any]:
    """The rows from `start` to `end` of flat inputs."""
    axes = [batch_axis(spec) for spec in program.signature.leaves]
    return [
        leaf if axis is None else leaf.narrow(axis.dim, start * axis.step, (end - start) * axis.step)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]


def _joined(outputs: list[Any]) -> Any:
    """An output of the whole batch from those of its parts."""
    if all(isinstance(output, torch.Tensor) and output.ndim for output in outputs):
        return torch.cat(outputs)
    return outputs[0]
