"""Hypothesis strategies: recommendation-shaped programs, inputs for them, and legal pipelines.

Graphs are built directly, operator by operator, in a few milliseconds each, valid by construction. All randomness is drawn, so that
failures shrink and replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from recfx.ir.program import Program
from recfx.pipeline import Pass, Pipeline, registered
from recfx.pipeline.validate import violations
from recfx.testing.builder import GraphBuilder
from recfx.testing.inputs import random_leaves
from recfx.testing.steps import STEPS, Pool

Draw = Any


def batch_sizes(max_batch: int = 17) -> st.SearchStrategy[int]:
    """Batch sizes, one row being the simplest."""
    return st.integers(1, max_batch)


@st.composite
def rec_graphs(draw: Draw, *, max_steps: int = 8, steps: Sequence[str] | None = None) -> Program:
    """Programs shaped like recommendation models.

    Inputs are `dense` float32 [batch, w] and `ids` int64 [batch, f]. Steps add lookups (one-hot, bags, tied and duplicated tables),
    linears, norms, activations, eval-mode dropout, concatenation, dot, FM and cross interactions, attention, gates, no-op casts and
    slices, repeated expressions and constant arithmetic.

    Args:
        draw: Given by Hypothesis.
        max_steps: At most so many steps.
        steps: Names of the steps to choose from (keys of `recfx.testing.steps.STEPS`); all by default.
    """
    width, fields = draw(st.integers(1, 4), label="dense"), draw(st.integers(1, 3), label="fields")
    builder = GraphBuilder({"dense": ("batch", width), "ids": (("batch", fields), torch.int64)})
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16), label="seed of weights"))
    pool = Pool(builder, generator, fields)
    names = draw(st.lists(st.sampled_from(sorted(steps or STEPS)), min_size=1, max_size=max_steps), label="steps")
    for name in names:
        STEPS[name](pool, draw)
    outputs = [pool.values[-1]]
    if len(pool.values) > 2 and draw(st.booleans(), label="a second output"):
        outputs.append(pool.values[-2])
    seed = draw(st.integers(0, 2**16), label="seed of inputs")
    return builder.build(*outputs, seed=seed, batch=draw(st.integers(2, 5), label="example batch"))


@st.composite
def tensors_for(draw: Draw, program: Program, *, batch: int | None = None) -> list[Any]:
    """Flat inputs for a program: ids inside their tables, numbers in [-2, 2].

    Args:
        draw: Given by Hypothesis.
        program: The program.
        batch: Rows; drawn when not given.
    """
    low, high = program.signature.dims.get("batch", (1, 17))
    rows = batch if batch is not None else draw(st.integers(low, max(low, min(high or 17, 17))), label="batch")
    return random_leaves(program, rows, torch.Generator().manual_seed(draw(st.integers(0, 2**16), label="seed")))


@st.composite
def pipelines(draw: Draw, passes: Sequence[Pass | type[Pass] | str] | None = None, *, max_passes: int = 6) -> Pipeline:
    """Pipelines that validate on a freshly captured program.

    Args:
        draw: Given by Hypothesis.
        passes: Passes to choose from; all registered ones that need nothing but a program by default.
        max_passes: At most so many.
    """
    choices = Pipeline(passes if passes is not None else [c for c in registered().values() if not c.spec.needs]).passes
    chosen: list[Pass] = []
    for _ in range(draw(st.integers(0, max_passes), label="length")):
        legal = [item for item in choices if not violations([*chosen, item], {"functional"})]
        if not legal:
            break
        chosen.append(draw(st.sampled_from(legal)))
    return Pipeline(chosen)
