"""Sizes that a plan does not derive from its inputs at the call are checked, at any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from native_kit import LEVELS, needs_kernels, partition, program_of, relaxed, seeds
from torch import nn

import recfx
from recfx.errors import CaptureError, InputError
from recfx.ir import Program
from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

Function = Callable[[torch.Tensor], torch.Tensor]

#: Operations along the batch, as functions of x [B, 3].
ALONG_THE_BATCH: dict[str, Function] = {
    "the first two rows": lambda x: x[:2] * 3 + 1,
    "the last two rows": lambda x: x[-2:] * 3 + 1,
    "the first row": lambda x: x[:1] * 3 + x,
    "the last row": lambda x: x[-1:] * 3 + 1,
    "the last row selected": lambda x: x[-1] * 3 + 1,
    "the second-last row selected": lambda x: x[-2] * 3 + 1,
    "two rows, as a matrix of two rows": lambda x: x[:2].reshape(2, 3) * 3 + 1,
    "two rows, spread over two": lambda x: x[:2].expand(2, 3) * 3 + 1,
    "two rows and two more": lambda x: (x[:2] * 2 + torch.ones(2, 3)) * 3,
    "two rows narrowed": lambda x: x.narrow(0, 0, 2) * 3 + 1,
    "five elements of all rows": lambda x: x.flatten()[:5] * 3 + 1,
    "all rows in two parts": lambda x: torch.cat([x[:2], x[2:]]) * 3 + 1,
    "two rows and all rows": lambda x: torch.cat([x[:2] * 2, x]) * 3 + 1,
    "the mean of two rows": lambda x: x - (x[:2] * 2).mean(0),
    "two columns of the transpose": lambda x: x.t()[:, :2] * 3 + 1,
    "the two largest": lambda x: x.topk(2, 0)[0] * 3 + 1,
    "rows picked by number": lambda x: x[torch.tensor([0, 2])] * 3 + 1,
    "rows with strides of their own": lambda x: x.as_strided((2, 3), (3, 1)) * 3 + 1,
    "a product of two rows": lambda x: (x[:2] * 2) @ torch.ones(3, 4) + 1,
    "scores of two rows": lambda x: torch.softmax(x[:2] * 2, 1).sum(1) * 2,
    "rows of rows": lambda x: (x * 2)[:3][:2] * 3 + 1,
    "sorted": lambda x: x.sort(0)[0] * 3 + 1,
}


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _require_elements(found: torch.Tensor, rows: int, refusal: Exception) -> None:
    """Raises the model's own error about a batch of 0, or about a reshape of no elements, where the result has no elements, too."""
    if not found.numel() and (not rows or "reshape tensor of 0 elements" in str(refusal)):
        raise refusal


def check(model: nn.Module, fast: Callable[..., Any], x: torch.Tensor) -> None:
    """The same tensor as the model's, or an error where the model has one.

    An empty batch may be refused, or give another shape without elements. Where the model refuses it, or refuses to reshape no
    elements to `[0, -1]`, the result may have no elements.
    """
    try:
        expected = model(x)
    except (RuntimeError, IndexError) as refusal:
        with pytest.raises((RuntimeError, IndexError, InputError)):
            _require_elements(fast(x), len(x), refusal)
        return
    try:
        found = fast(x)
    except InputError:
        if len(x):
            raise
        return
    if len(x) or expected.numel() or found.numel():
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_what_is_taken_of_the_batch(name: str) -> None:
    model = Model(ALONG_THE_BATCH[name]).eval()
    fast = recfx.optimize(model, "native", example_inputs=torch.randn(4, 3), verify="off", measure=False)
    for rows in (0, 1, 2, 3, 4, 9):
        if rows == 0 or rows >= _range(fast)[0]:
            check(model, fast, torch.randn(rows, 3))


_bounds = st.one_of(st.none(), st.integers(-6, 6))


@st.composite
def _steps(draw: st.DrawFn) -> Function:
    """One step of a program: a slice, a selection, a spread or some arithmetic. A window is a slice of one row or two of a large batch."""
    kinds = ["slice", "window", "columns", "every other", "narrow", "scale", "sum", "flatten", "turn", "pairs", "view"]
    kind = draw(st.sampled_from(kinds))
    low, high, number = draw(_bounds), draw(_bounds), draw(st.floats(-2, 2))
    first, width = draw(st.integers(-4, 4)), draw(st.integers(1, 2))
    note(f"{kind}: bounds {low} and {high}, number {number}, window of {width} from {first}")
    steps: dict[str, Function] = {
        "slice": lambda x: x[low:high],
        "window": lambda x: x[first : (first + width) or None],
        "columns": lambda x: x[:, low:high] if x.ndim > 1 else x[low:high],
        "every other": lambda x: x[..., ::2],
        "narrow": lambda x: x.narrow(0, 0, abs(low or 1)),
        "scale": lambda x: x * number + 1,
        "sum": lambda x: x + x.sum(-1, keepdim=True),
        "flatten": lambda x: x.flatten(),
        "turn": lambda x: x.mT if x.ndim > 1 else x,
        "pairs": lambda x: (x[:, None] * x[None]).flatten(0, 1),
        "view": lambda x: (x * number).reshape(x.shape[0], -1),
    }
    return steps[kind]


@relaxed
@given(st.lists(_steps(), min_size=1, max_size=4), seeds, st.sampled_from([2, 4, 7]))
def test_programs_of_slices(steps: list[Function], seed: int, rows: int) -> None:
    """Random programs, captured with some rows and called with others; nothing is verified on the way."""
    rng = torch.Generator().manual_seed(seed)

    def run(x: torch.Tensor) -> torch.Tensor:
        for step in steps:
            x = step(x * 2)
        return x * 1.5 + 0.5

    model = Model(run).eval()
    try:
        fast = recfx.optimize(
            model, "native", example_inputs=torch.randn(rows, 5, generator=rng), verify="off", measure=False
        )
    except CaptureError:
        return  # the program fixes the batch, or fails on the example
    low, high = _range(fast)
    for other in (0, 1, 2, 3, 4, 8):
        if other == 0 or low <= other <= (high or other):
            check(model, fast, torch.randn(other, 5, generator=rng))


def _range(fast: recfx.CompiledModel) -> tuple[int, int | None]:
    """The batches that the captured program takes."""
    return fast.program.signature.dims.get("batch", (1, None))


def _believing(rows: int) -> tuple[Program, torch.fx.Node]:
    """`x[:2] * 3 + 1` whose slice claims to have two rows for every batch; and the slice."""
    batch = torch.export.Dim("batch", min=1, max=100)
    program = program_of(lambda x: x[:2] * 3 + 1, [torch.randn(rows, 3)], dynamic_shapes=(({0: batch},),))
    node = program.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)[0]
    for part in (node, *list(program.graph.nodes)[-3:-1]):
        part.meta["val"] = part.meta["val"].new_empty((2, 3))
    return program, node


@pytest.mark.parametrize("level", LEVELS)
def test_a_plan_checks_what_others_computed(level: str) -> None:
    """Where a shape in the graph is wrong, torch runs the plan's operators."""
    program, _ = _believing(4)
    made = partition(program, level)
    assert made.plans == 1
    run = flat_function(made.region)
    for rows in (1, 2, 3):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(run(x)[0], x[:2] * 3 + 1)


def test_the_other_path_takes_sizes_and_several_outputs() -> None:
    """It needs values that the plan does not: sizes, views of inputs, and the tensors of the sizes."""
    batch = torch.export.Dim("batch", min=1, max=100)

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        part = x.roll(1, 0)
        wide = (part * 2).reshape(y.shape[0], 3, 1).expand(y.shape[0], 3, 2)
        return wide + y[:, :1, None], part * 5

    x, y = torch.randn(4, 3), torch.randn(4, 2)
    program = program_of(function, [x, y], dynamic_shapes=(({0: batch}, {0: batch}),))
    made = partition(program, LEVELS[0])
    (call,) = made.calls
    run, spare = call.target, [n.name for n in call.args]
    assert any("roll" in name for name in spare)
    plain = flat_function(made.region)
    for found, expected in zip(plain(x, y), function(x, y), strict=True):
        torch.testing.assert_close(found, expected)
    otherwise = run.__globals__["_otherwise"]
    tensors = {"roll": x.roll(1, 0), "inputs_1": y}
    given_values = [
        next((t for name, t in tensors.items() if source.name.startswith(name)), len(x)) for source in otherwise.sources
    ]
    for found, expected in zip(otherwise(*given_values), function(x, y), strict=True):
        torch.testing.assert_close(found, expected)


def test_inputs_are_not_checked_twice() -> None:
    """The entry has compared the sizes of inputs, so a plan that reads only inputs does not compare them again."""
    batch = torch.export.Dim("batch", min=1, max=100)
    program = program_of(lambda x: x * 3 + 1, [torch.randn(4, 3)], dynamic_shapes=(({0: batch},),))
    made = partition(program, LEVELS[0])
    (call,) = made.calls
    assert call.target.__globals__["_otherwise"] is None
