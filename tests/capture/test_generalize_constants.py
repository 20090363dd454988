"""Constants that a model makes in Python for every batch size are replaced by operators over the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recfx.capture.generalize_constants import general_constant
from recfx.capture.size_lines import Sizes
from recfx.ir import Program
from recfx.testing import GraphBuilder

BATCHES = (4, 5, 7)
ROW = torch.tensor([1.0, -2.0, 3.0])
Make = Callable[[int], Tensor]

#: What the constant is -> its value at a batch size.
GENERAL: dict[str, Make] = {
    "the batch": torch.tensor,
    "the batch as a float": lambda b: torch.tensor(float(b)),
    "the batch in a matrix": lambda b: torch.full((1, 1), b),
    "twice the batch less one": lambda b: torch.tensor([2 * b - 1], dtype=torch.int32),
    "one over the batch": lambda b: torch.tensor(1.0 / b, dtype=torch.float64),
    "equal rows": lambda b: ROW.expand(b, 3).clone(),
    "equal columns": lambda b: ROW[:, None].expand(3, b).clone(),
    "equal rows in the middle": lambda b: torch.ones(2, b, 3) * ROW,
    "equal numbers": lambda b: torch.full((b,), 7),
    "equal truths": lambda b: torch.ones(b, dtype=torch.bool),
    "a range": torch.arange,
    "a range of another type": lambda b: torch.arange(b, dtype=torch.int32),
    "a column of a range": lambda b: torch.arange(b)[:, None],
    "a range in the middle": lambda b: torch.arange(b)[None, :, None],
    "a range from five": lambda b: torch.arange(b) + 5,
    "a range by three": lambda b: torch.arange(b) * 3,
    "a range from two down": lambda b: 2 - torch.arange(b) * 4,
}

#: Constants of the batch that are none of these.
OTHERS: dict[str, Make] = {
    "squares": lambda b: torch.arange(b) ** 2,
    "a square": lambda b: torch.tensor(b * b),
    "floats in order": lambda b: torch.arange(float(b)),
    "truths in order": lambda b: torch.arange(b) > 0,
    "rows in order": lambda b: torch.arange(b * 3).view(b, 3),
    "another row at one batch": lambda b: torch.full((b, 2), b // 7),
    "another step at one batch": lambda b: torch.arange(b) * (1 + b // 7),
    "another start at one batch": lambda b: torch.arange(b) + b // 7,
    "two dimensions": lambda b: torch.ones(b, b),
    "twice as many": lambda b: torch.ones(2 * b),
    "another rank at one batch": lambda b: torch.ones(*[b] * (1 + b // 7)),
    "another type at one batch": lambda b: torch.ones(b, dtype=torch.float64 if b == 7 else torch.float32),
    "the shape of a number": lambda b: torch.full([1] * (1 + b // 7), b),
}


def general(make: Make, *, behind: bool) -> tuple[Program, bool]:
    """The program that returns a constant, after its replacement, and whether it was replaced."""
    b = GraphBuilder({"x": ("batch", 2)})
    x = b.inputs["x"]
    constant = b.state("constant", make(BATCHES[0]))
    program = b.build(b.call(torch.ops.aten.alias.default, constant), x)
    nodes = list(program.graph.nodes)
    x, read = (next(n for n in nodes if n.op == op) for op in ("placeholder", "get_attr"))
    if behind:
        x.append(read)
    sizes = Sizes(program.module, x, x.meta["val"].shape[0], x, 0, 1)
    made = general_constant(program, read, [make(batch) for batch in BATCHES], BATCHES, sizes)
    program.module.recompile()
    return program, made is not None


@pytest.mark.parametrize("behind", [False, True], ids=["before the inputs", "behind the inputs"])
@pytest.mark.parametrize("name", GENERAL)
def test_constants_of_any_batch(name: str, behind: bool) -> None:
    make = GENERAL[name]
    program, replaced = general(make, behind=behind)
    assert replaced
    for batch in (1, 2, 4, 9):
        found = program.run([torch.zeros(batch, 2)])[0]
        assert found.dtype is make(batch).dtype
        assert torch.equal(found, make(batch)), (name, batch)


@pytest.mark.parametrize("name", OTHERS)
def test_constants_that_no_operator_makes_stay(name: str) -> None:
    program, replaced = general(OTHERS[name], behind=True)
    assert not replaced
    assert torch.equal(program.run([torch.zeros(4, 2)])[0], OTHERS[name](4))
