"""Batches that a plan does not take in one call: a batch of 0, and more rows than `max_batch`.

If each row of every output depends only on the same row of the inputs, which an analysis of the program proves, then a call without rows
returns outputs without rows, and a call of many rows runs in parts. Otherwise torch's operators run the batch of 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.driver.parts import Parts
from recfx.errors import InputError
from recfx.ir.printer import symbol_names
from recfx.ir.program import ENDS_AT_LARGEST_BATCH
from recfx.ir.shapes import BATCH, sizes_of
from recfx.ir.sizes import evaluate_size
from recfx.ir.true_sizes import has_clamped_size


def run_without_rows(parts: Parts, leaves: Sequence[Any], sizes: Mapping[str, int]) -> list[Any]:
    """The flat outputs of a batch of 0.

    Args:
        parts: The compiled model.
        leaves: The flat inputs.
        sizes: The size of each dimension.

    Raises:
        InputError: torch cannot compute an output, such as a maximum over the batch.
    """
    program = parts.program
    least = program.signature.dims[BATCH][0]
    if least > 1 and any(has_clamped_size(node.meta.get("val")) for node in program.graph.nodes):
        raise InputError(
            f"the outputs cannot be computed from a batch of 0: a slice of the batch needs {least} rows",
            hint=f"pass at least {least} rows",
        )
    if least > 2:
        raise InputError(
            f"the outputs cannot be computed from a batch of 0: the model was captured for {least} rows and more",
            hint=f"pass at least {least} rows",
        )
    names = symbol_names(program)
    returned: Any = next(iter(reversed(program.graph.nodes))).args[0]
    found = [_without_rows(value, names, sizes) for value in returned]
    independent = not isinstance(parts.row_plan, str)
    if independent and all(value is not None or node is None for value, node in zip(found, returned, strict=True)):
        return found
    try:
        return list(parts.in_torch.run(leaves))
    except Exception as error:
        raise InputError(
            f"the outputs cannot be computed from a batch of 0: {error}", hint="pass at least one row"
        ) from error


def _without_rows(node: Any, names: dict[str, str], sizes: Mapping[str, int]) -> torch.Tensor | None:
    """The output of a batch of 0 if it has no elements; None for other outputs."""
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return None
    shape = [size if isinstance(size, int) else evaluate_size(size, sizes) for size in sizes_of(value, names)]
    known = [size for size in shape if size is not None]
    if len(known) != len(shape) or 0 not in known:
        return None
    return torch.empty(known, dtype=value.dtype, device=value.device)


def run_in_parts(parts: Parts, leaves: Sequence[Any], rows: int, most: int) -> list[Any]:
    """The flat outputs of a batch that is larger than the model takes in one call.

    Args:
        parts: The compiled model.
        leaves: The flat inputs.
        rows: The batch.
        most: The largest batch that the model takes.

    Raises:
        InputError: The rows depend on one another, or cannot be divided.
    """
    if ENDS_AT_LARGEST_BATCH in parts.program.properties:
        raise InputError(
            f"batch = {rows} is above {most}, and the model treats larger batches in another way, or refuses them",
            hint="optimize once more with an example of this batch, and call that model for large batches",
        )
    divided = parts.division
    count = -(-rows // most)
    if not isinstance(divided, str) and rows // count < divided.least_rows:
        divided = f"one of {count} parts would have fewer than {divided.least_rows} rows"
    if isinstance(divided, str):
        raise InputError(
            f"batch = {rows} is above max_batch = {most}, and cannot be run in parts: {divided}",
            hint="optimize with a larger max_batch, or split the call yourself",
        )
    divided.check(leaves)
    bounds = [(part * rows // count, (part + 1) * rows // count) for part in range(count)]
    return divided.joined([parts.run(*divided.cut(leaves, start, end)) for start, end in bounds])
