"""Batches of 0, and batches larger than the model takes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels
from pass_cases import Function
from torch import nn

import recfx
from recfx import zoo
from recfx.capture import capture
from recfx.driver.batch_parts import _without_rows
from recfx.errors import InputError
from recfx.ir.printer import symbol_names
from recfx.ir.shapes import BATCH


@pytest.fixture(scope="module")
def tiny() -> tuple[TinyCtr, recfx.CompiledModel]:
    model = TinyCtr()
    return model, recfx.optimize(model, example_inputs=tiny_inputs(4), max_batch=8, measure=False)


@given(rows=st.integers(0, 60))
def test_any_number_of_rows(tiny: tuple[TinyCtr, recfx.CompiledModel], rows: int) -> None:
    model, fast = tiny
    inputs = tiny_inputs(rows)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs))


@pytest.mark.parametrize("name", ["dcn-v2", "din", "dien", "bst", "mmoe", "two-tower"])
def test_models_of_the_zoo(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.MODELS[name].small().eval()
    fast = recfx.optimize(model, example_inputs=model.example_inputs(4), max_batch=8, measure=False)
    inputs = model.example_inputs(19)
    with torch.no_grad():
        want = model(*inputs)
    torch.testing.assert_close(fast(*inputs), want, rtol=1e-4, atol=1e-5)
    assert fast(*(leaf[:0] for leaf in inputs)).shape == (0, *want.shape[1:])


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_models_of_fewer_bits(precision: str) -> None:
    torch.manual_seed(0)
    model = zoo.DLRM.small().eval()
    fast = recfx.optimize(
        model, example_inputs=model.example_inputs(4), max_batch=8, measure=False, precision=precision
    )
    dense, sparse = model.example_inputs(19)
    want = torch.cat([fast(dense[:8], sparse[:8]), fast(dense[8:16], sparse[8:16]), fast(dense[16:], sparse[16:])])
    torch.testing.assert_close(fast(dense, sparse), want, rtol=1e-4, atol=1e-5)


def test_a_loaded_model_is_divided_too(tmp_path: Path) -> None:
    model = TinyCtr()
    fast = recfx.optimize(model, target="eager", example_inputs=tiny_inputs(4), max_batch=8, measure=False)
    fast.save(tmp_path / "tiny.recfx")
    inputs = tiny_inputs(21)
    torch.testing.assert_close(recfx.load(tmp_path / "tiny.recfx")(*inputs), model(*inputs))


def test_a_plan_for_one_row() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(30, 4)
    model = Function(lambda m, ids: m.table(ids).sum(1, keepdim=True).squeeze(), table=table)
    fast = recfx.optimize(model, example_inputs=torch.arange(2), max_batch=4, measure=False)
    for rows in (0, 1, 2, 4, 5, 7, 9):
        torch.testing.assert_close(fast(torch.arange(rows)), model(torch.arange(rows)))


def test_requests_and_nested_outputs() -> None:
    def forward(user: torch.Tensor, item: torch.Tensor) -> dict[str, Any]:
        return {"score": (user * item).sum(1), "both": (item.T, [item * 2])}

    class Model(nn.Module):
        def forward(self, user: torch.Tensor, item: torch.Tensor) -> dict[str, Any]:
            return forward(user, item)

    example = (torch.randn(4, 3), torch.randn(4, 3))
    fast = recfx.optimize(Model().eval(), example_inputs=example, request_inputs="user", max_batch=8, measure=False)
    user, item = torch.randn(1, 3), torch.randn(21, 3)
    got, want = fast(user, item), forward(user, item)
    torch.testing.assert_close(got["score"], want["score"])
    torch.testing.assert_close(got["both"][0], want["both"][0])
    assert fast(user, item[:0])["both"][0].shape == (3, 0)


APART: dict[str, Callable[..., Any]] = {
    "softmax over the batch": lambda m, x: x.softmax(0),
    "mean of the batch": lambda m, x: x - x.mean(0),
    "number of rows": lambda m, x: x / x.shape[0],
    "running sum": lambda m, x: x.cumsum(0),
    "neighbours": lambda m, x: x - x.roll(1, 0),
    "all pairs": lambda m, x: x @ x.T,
    "scalar": lambda m, x: x.sum(),
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_depend_on_one_another_are_not_divided(name: str) -> None:
    fast = recfx.optimize(Function(APART[name]), example_inputs=torch.randn(4, 3), max_batch=8, measure=False)
    with pytest.raises(InputError, match=r"batch = 9 is above max_batch = 8, and cannot be run in parts: \w+"):
        fast(torch.randn(9, 3))


def test_a_batch_above_a_branch_of_the_model_is_refused(tmp_path: Path) -> None:
    """Parts of it would take the branch for small batches. With a smaller `max_batch` as well, which hides no branch."""
    model = Function(lambda m, x: x * 2 if x.shape[0] > 10 else x.exp())
    few, many = torch.randn(10, 3), torch.randn(11, 3)
    for options in ({}, {"max_batch": 8}, {"dynamic_shapes": (({0: torch.export.Dim("batch", min=1, max=50)},),)}):
        fast = recfx.optimize(model, example_inputs=few[:6], measure=False, **options)
        fast.save(tmp_path / "model")
        for each in (fast, recfx.load(tmp_path / "model")):
            torch.testing.assert_close(each(few[:8]), model(few[:8]))
            with pytest.raises(
                InputError, match=r"batch = 11 is above (10|8), and the model treats larger batches in another way"
            ):
                each(many)
    large = recfx.optimize(model, example_inputs=many, measure=False)
    torch.testing.assert_close(large(many), model(many))
    for rows in (few, few[:0]):
        with pytest.raises(InputError, match=r"outside the captured range 11 to|captured for 11 rows and more"):
            large(rows)


def test_a_model_that_computes_its_batch_in_pieces_takes_any_batch() -> None:
    model = Function(lambda m, x: torch.cat([part.exp() for part in x.split(8)]))
    x = torch.randn(37, 3)
    fast = recfx.optimize(model, example_inputs=x[:6], measure=False)
    assert [n for n in fast.report.notices if n.endswith("; a call of more rows runs in parts")]
    torch.testing.assert_close(fast(x), model(x))
    apart = Function(lambda m, x: torch.cat([part - part.mean(0) for part in x.split(8)]))
    with pytest.raises(InputError, match="the model treats larger batches in another way"):
        recfx.optimize(apart, example_inputs=x[:6], measure=False)(x)


def test_outputs_without_rows_are_computed_from_none() -> None:
    model = Function(lambda m, x: (x.sum(), x * 2, x.mean()))
    fast = recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False)
    total, rows, mean = fast(torch.empty(0, 3))
    assert float(total) == 0
    assert rows.shape == (0, 3)
    assert bool(mean.isnan())


def test_outputs_of_no_rows_have_the_types_of_others() -> None:
    model = Function(lambda m, x: (x.argmax(1), x > 0, x.double(), x.unsqueeze(1).expand(-1, 5, -1)))
    fast = recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False)
    some, none = fast(torch.randn(2, 3)), fast(torch.empty(0, 3))
    assert [value.dtype for value in none] == [value.dtype for value in some]
    assert [value.shape for value in none] == [(0, *value.shape[1:]) for value in some]


def test_bags_are_divided_and_may_be_none() -> None:
    bag = nn.EmbeddingBag(50, 4, mode="sum")
    example = (torch.arange(7), torch.tensor([0, 2, 4]))
    fast = recfx.optimize(bag.eval(), example_inputs=example, max_batch=4, measure=False)
    assert fast(torch.arange(0), torch.arange(0)).shape == (0, 4)
    ids, offsets = torch.arange(20), torch.arange(9) * 2
    torch.testing.assert_close(fast(ids, offsets), bag(ids, offsets))


def test_bad_ids_in_a_part_are_refused(tiny: tuple[TinyCtr, recfx.CompiledModel]) -> None:
    dense, sparse = tiny_inputs(30)
    sparse[20, 0] = 99
    with pytest.raises(InputError, match="99"):
        tiny[1](dense, sparse)


def test_outputs_without_elements_are_made_without_torch() -> None:
    """Where each row depends on its own row only, no operator runs: some refuse tensors without elements."""
    for width, rows in ((3, 0), (1, 0)):
        program = capture(nn.Linear(4, width).eval(), (torch.randn(3, 4),))
        (returned,) = next(iter(reversed(program.graph.nodes))).args[0]
        found = _without_rows(returned, symbol_names(program), {BATCH: rows})
        assert found is not None
        assert found.shape == (rows, width)
        assert _without_rows(returned, symbol_names(program), {BATCH: 1}) is None
        assert _without_rows(returned, symbol_names(program), {BATCH: 2}) is None
