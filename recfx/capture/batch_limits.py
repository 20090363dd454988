"""Notices about programs with fewer batch sizes than requested: the operator or branch, the user's line, and the change to make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from recfx.capture.size_range import slices_of_batch
from recfx.errors import VerificationError
from recfx.ir.known_values import known_values
from recfx.ir.program import Program
from recfx.ir.propagate import compute, fake_inputs, new_size
from recfx.ir.provenance import user_line
from recfx.ir.shapes import BATCH

LIMITS = "limits the program to batches"


def limit_notices(
    program: Program, max_batch: int, branches: Sequence[str], refusal: Callable[[int], str | None]
) -> list[str]:
    """Notices about a program that accepts fewer batch sizes than requested.

    Args:
        program: The program.
        max_batch: The largest requested batch.
        branches: The user's lines that branch on a size.
        refusal: Batch size -> the error of the user's model at this size; None when the model accepts it.
    """
    if BATCH not in program.signature.dims:
        return []
    low, high = program.signature.dims[BATCH]
    if any(LIMITS in notice for notice in program.notices):
        return []
    if low <= 1 and (high is None or high >= max_batch):
        return []
    outside = [low - 1] * (low > 1) + ([high + 1] if high is not None and high < max_batch else [])
    refused = [(size, why) for size in outside if (why := refusal(size)) is not None]
    span = f"{LIMITS} {low} to {high}"
    if refused and len(refused) == len(outside):
        return [f"the model {span}: the model itself fails at batch {refused[0][0]} ({refused[0][1]})"]
    node = _limiting_operator(program)
    if node is not None:
        line = user_line(node)
        return [
            f"{node.target}{f' at {line}' if line else ''} {span}; take its sizes from x.shape[0], or optimize once more with an "
            "example of another batch size"
        ]
    slices = slices_of_batch(program)
    if slices:
        line = user_line(slices[0])
        return [
            f"a slice of the batch{f' at {line}' if line else ''}, which has fewer rows for a smaller batch, {span}; pass at least {low} "
            "rows, or run your own model on smaller batches"
        ]
    if not branches:
        return [
            f"a size that tracing took from the example {span}; optimize once more with an example of more rows, or of another batch "
            "size"
        ]
    return [
        f"a branch on the batch size in forward ({'; '.join(branches[:3])}) {span}; compute both sides and choose with torch.where, or "
        "optimize once more with an example of another batch size"
    ]


def _limiting_operator(program: Program) -> fx.Node | None:
    """The first node whose fake kernel limits a dynamic batch; None without one."""
    leaves = [leaf for leaf in program.signature.leaves if leaf.kind == "tensor"]
    mode = FakeTensorMode(shape_env=ShapeEnv())
    low, high = program.signature.dims[BATCH]
    batch: Any = new_size(mode, BATCH, max(low, 2) if high is None else min(max(low, 7), high))
    made = fake_inputs([(leaf.shape, leaf.dtype, leaf.device) for leaf in leaves], mode=mode, symbols={BATCH: batch})  # type: ignore[misc]
    fakes = iter(made)
    env: Any = mode.shape_env
    symbol = batch.node.expr
    before = env.var_to_range[symbol]
    known = known_values(mode, program.graph)
    values: dict[fx.Node, Any] = {}
    for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True):
        values[node] = next(fakes) if leaf.kind == "tensor" else leaf.value
    nodes: list[fx.Node] = list(program.graph.nodes)
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        try:
            values[node] = compute(node, program.module, values.__getitem__, mode, known)
        except VerificationError:
            return node
        if env.var_to_range[symbol] != before or env.replacements.get(symbol) is not None:
            return node
    return None
