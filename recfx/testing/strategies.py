"""Hypothesis strategies: recommendation-shaped programs, inputs for them, and legal pipelines.

Graphs are built directly, operator by operator, in a few milliseconds each, valid by construction. All randomness is drawn, so that
failures shrink and replay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from recfx.ir.program import Program
from recfx.pipeline import Pass, Pipeline, registered
from recfx.pipeline.validate import violations
from recfx.testing.builder import GraphBuilder
from recfx.testing.focus import Focus
from recfx.testing.inputs import random_leaves
from recfx.testing.pool import Pool
from recfx.testing.steps import STEPS

Draw = Any


def batch_sizes(max_batch: int = 17) -> st.SearchStrategy[int]:
    """Batch sizes, one row being the simplest."""
    return st.integers(1, max_batch)


@st.composite
def rec_graphs(
    draw: Draw,
    *,
    max_steps: int = 10,
    steps: Sequence[str] | None = None,
    focus: Focus | None = None,
    jagged: bool = False,
) -> Program:
    """Programs shaped like recommendation models, with all operators of the dialect and the ATen operators of captured models.

    Inputs are `dense` float32 [batch, w] and `ids` int64 [batch, f], sometimes `sequence` float32 [batch, l, d] and `mask` bool [batch, w].
    Half of the graphs start with one or two lookups, then every step is as likely as any other; tables are tied, copied and aliased; values
    have several users, outputs among them.

    Args:
        draw: Given by Hypothesis.
        max_steps: The largest number of steps.
        steps: Names of the steps to choose from (keys of `recfx.testing.steps.STEPS`); all by default.
        focus: The source of most steps and half of the constants.
        jagged: Whether graphs may have bags with offsets as an input: `bag_ids`, `bag_weights` and `offsets`.
    """
    width, fields = draw(st.integers(1, 4), label="dense"), draw(st.integers(1, 3), label="fields")
    inputs = _inputs(draw, width, fields, jagged)
    builder = GraphBuilder(inputs)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16), label="seed of weights"))
    every = sorted(steps or STEPS)
    if focus is None:
        pool, groups = Pool(builder, generator, fields), [tuple(every)]
    else:
        pool, groups = Pool(builder, generator, fields, focus.numbers, focus.operators), focus.groups(every)
    if "offsets" in inputs:
        STEPS["jagged-bag"](pool, draw)
    if focus is None and steps is None:  # models look up several fields, often in one table; few steps are lookups
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]), label="lookups")):
            pool.keep(pool.call(torch.ops.aten.embedding.default, pool.table(draw), pool.column(draw)))
    for _ in range(draw(st.sampled_from(_step_counts(max_steps)), label="steps")):
        names = draw(st.sampled_from(groups))
        STEPS[draw(st.sampled_from(names), label="step")](pool, draw)
        if (
            focus is not None and names is not groups[-1] and draw(st.booleans())
        ):  # a pattern: the second operator reads the result of the first
            pool.next_operand = pool.latest()
            STEPS[draw(st.sampled_from(groups[0]), label="step on top")](pool, draw)
            pool.next_operand = None
    seed = draw(st.integers(0, 2**16), label="seed of inputs")
    outputs = _outputs(draw, pool)
    program = builder.build(*outputs, seed=seed, batch=draw(st.integers(2, 5), label="example batch"))
    assume(_runs(program))
    return program


def _runs(program: Program) -> bool:
    """Whether a program runs on its example. An operator may refuse a changed constant only when it runs."""
    try:
        program.run(program.example)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True


def _step_counts(most: int) -> list[int]:
    """Numbers of steps, the smallest first so that graphs shrink to it, larger ones more often."""
    more = [count for start in range(3, most + 1, 2) for count in range(start, most + 1)]
    return [*range(1, most + 1), *more, *more]


def _inputs(draw: Draw, width: int, fields: int, jagged: bool) -> dict[str, Any]:
    inputs: dict[str, Any] = {"dense": ("batch", width), "ids": (("batch", fields), torch.int64)}
    if draw(st.booleans(), label="a sequence"):
        inputs["sequence"] = ("batch", draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if draw(st.booleans(), label="a mask"):
        inputs["mask"] = (("batch", width), torch.bool)
    if jagged and draw(st.sampled_from([False, False, True]), label="bags"):
        size = draw(st.sampled_from(["batch", "batch + 1"]))
        inputs |= {
            "bag_ids": (("values",), torch.int64),
            "bag_weights": ("values",),
            "offsets": ((size,), torch.int64),
        }
    return inputs


def _outputs(draw: Draw, pool: Pool) -> list[Any]:
    """All unused values, and some of the used ones."""
    made = [v for v in dict.fromkeys(pool.made) if v.op != "placeholder"]
    unread = [v for v in made if not v.users]
    shared = [v for v in made if v.users]
    which = (
        draw(st.sampled_from(["none", "none", "all", "some"]), label="values read and returned") if shared else "none"
    )
    if which == "some":
        unread += draw(st.lists(st.sampled_from(shared), min_size=1, max_size=4, unique_by=id))
    elif which == "all":
        unread += shared
    return unread or [pool.values[0]]


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
        passes: Passes to choose from; by default all registered ones that need a program only and have no required option.
        max_passes: The largest number of passes.
    """
    choices = Pipeline(passes if passes is not None else _without_needs()).passes
    chosen: list[Pass] = []
    for _ in range(draw(st.integers(0, max_passes), label="length")):
        legal = [item for item in choices if not violations([*chosen, item], {"functional"})]
        if not legal:
            break
        chosen.append(draw(st.sampled_from(legal)))
    return Pipeline(chosen)


def _without_needs() -> list[type[Pass]]:
    """The registered passes that need neither data nor an option."""
    missing = dataclasses.MISSING
    return [
        cls
        for cls in registered().values()
        if not cls.spec.needs
        and all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(cls))
    ]
