"""Programs of fixed shapes also run row by row: their batch is found, and is not confused with other dimensions of its
size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_kit import LEVELS, Module, Partition, needs_kernels, partition
from torch import Tensor

import recfx
from recfx.capture import capture
from recfx.ir import Program
from recfx.ir.region import Region
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.targets.native.fixed_shapes import with_free_batch
from recfx.zoo import MODELS

pytestmark = needs_kernels


def lowered(model: torch.nn.Module, inputs: Any) -> tuple[Program, Partition]:
    captured = capture(model.eval(), inputs, {}, dynamic_shapes=False)
    program = Pipeline(NATIVE_PIPELINE).run(captured).program
    return program, partition(program, LEVELS[0])


def works_row_by_row(made: Partition) -> bool:
    plans = [n.target.plan for n in made.calls]
    return all(not step.once for plan in plans for step in plan.steps)


#: The models of the zoo that become one plan over rows.
WHOLE = sorted(set(MODELS) - {"dien", "lightgcn"})


def _rows() -> list[Any]:
    """Models with numbers of rows, among them sizes of layers and histories; by default each model has one of these numbers."""
    every = [(name, rows, (place + rows // 2) % 3 == 0) for place, name in enumerate(WHOLE) for rows in (4, 6, 8)]
    return [pytest.param(name, rows, marks=() if quick else pytest.mark.slow) for name, rows, quick in every]


@pytest.mark.parametrize(("name", "rows"), _rows())
def test_models_are_one_plan_over_rows(name: str, rows: int) -> None:
    model: Any = MODELS[name].small()  # type: ignore[attr-defined]
    program, made = lowered(model, model.example_inputs(rows))
    assert made.plans == 1, {n.name: reason for n, reason in made.refused.items()}
    assert works_row_by_row(made)
    leaves = program.signature.flatten(model.example_inputs(rows, seed=3), {})
    for found, expected in zip(flat_function(made.region)(*leaves), program.run(leaves), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def agrees(function: Any, inputs: list[Tensor], state: list[Tensor]) -> Partition:
    program, made = lowered(Module(function, state), tuple(inputs))
    for found, expected in zip(flat_function(made.region)(*inputs), program.run(inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    return made


def test_literal_sizes_are_rows_too() -> None:
    made = agrees(lambda x, w: (x.reshape(5 * 2, 3) @ w).reshape(5, 6).relu(), [torch.randn(5, 6)], [torch.randn(3, 3)])
    assert (made.plans, works_row_by_row(made)) == (1, True)


def test_what_happens_to_have_the_size_of_the_batch_is_not_taken_for_it() -> None:
    square = torch.randn(4, 4)
    agrees(lambda x, w: (x @ w).relu() + w.view(4, 4).sum(0), [torch.randn(4, 4)], [square])
    agrees(lambda x, y, w: x @ w + y, [torch.randn(4, 4), torch.randn(4)], [square])
    agrees(lambda x, w: x.t() @ w, [torch.randn(4, 4)], [square])
    agrees(lambda x, w: x.reshape(2, 2, 4).transpose(0, 1).reshape(4, 4) * w, [torch.randn(4, 4)], [square])


def test_what_mixes_rows_keeps_its_fixed_size() -> None:
    made = agrees(lambda x, w: x + w, [torch.randn(4, 3)], [torch.randn(4, 3)])
    assert not works_row_by_row(made)


def test_programs_that_are_left_as_they_are() -> None:
    def of(*inputs: Tensor, **how: Any) -> Program:
        return capture(Module(lambda x: x.relu()).eval(), inputs, {}, **how)

    for program in (of(torch.randn(4, 3)), of(torch.randn(1, 3), dynamic_shapes=False)):
        region = Region.whole(program)
        assert with_free_batch(region) is region
    fixed = of(torch.randn(4, 3), dynamic_shapes=False)
    before = str(fixed)
    assert with_free_batch(Region.whole(fixed)).module is not fixed.module
    assert str(fixed) == before


def test_a_model_of_fixed_shapes_from_end_to_end() -> None:
    model: Any = MODELS["dlrm"].small().eval()  # type: ignore[attr-defined]
    inputs = model.example_inputs(6)
    fast = recfx.optimize(model, target="native", example_inputs=inputs, dynamic_shapes=False, measure=False)
    assert fast.report.backend == ("native",)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(recfx.InputError):
        fast(*model.example_inputs(5))


def _running_maximum(x: Tensor) -> Tensor:
    return torch.cummax(x, -1).values


#: Functions of [5, 4] with an operator of torch between two plans, by the inputs of the second plan.
AROUND_TORCH = {
    "rows": lambda x: _running_maximum(x.relu()) * 2,
    "several rows for each row of the batch": lambda x: (
        _running_maximum((x.relu() * 3).reshape(10, 2)).reshape(5, 4).tanh()
    ),
    "all rows in one dimension": lambda x: _running_maximum(x.relu().reshape(-1)).reshape(5, 4) * 2,
    "several, back and forth": lambda x: (_running_maximum((x.relu() * 3).reshape(10, 2)).reshape(-1) * 2).reshape(
        5, 4
    ),
}


@pytest.mark.parametrize("name", AROUND_TORCH)
def test_all_plans_of_a_program_have_the_same_batch(name: str) -> None:
    made = agrees(AROUND_TORCH[name], [torch.randn(5, 4)], [])
    assert (made.plans, works_row_by_row(made)) == (2, True)


def test_sizes_that_data_decides_on_are_no_hindrance() -> None:
    made = agrees(lambda x: torch.unique(x.relu()).sum() + x.tanh(), [torch.randn(5, 4)], [])
    assert works_row_by_row(made)
