"""What layers see on calibration data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function
from torch import nn

from recfx.capture import capture
from recfx.errors import IdError, InputError
from recfx.ir import Program
from recfx.passes.quantize.calibrated_layers import MOST_ROWS, calibration_rows, observe, run_together
from recfx.passes.quantize.layer_kinds import KINDS
from recfx.pipeline import Pipeline


def fused(model: nn.Module, columns: int = 6) -> Program:
    return Pipeline("canonicalize,fuse-cross,fuse-mlp").run(capture(model.eval(), (torch.randn(4, columns),))).program


def seen_by(program: Program, rows: list[list[Any]]) -> list[Any]:
    """What the matrices of a program see, in order."""
    nodes = [node for node in program.graph.nodes if node.target in KINDS]
    found = observe(program, rows, nodes)
    return [found[place] for node in nodes for place in sorted((p for p in found if p[0] is node), key=lambda p: p[1])]


def test_inputs_and_means_of_a_chain() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    rows = [[torch.randn(7, 6)], [torch.randn(2, 6)]]
    first, second = seen_by(fused(model), rows)
    x = torch.cat([rows[0][0], rows[1][0]])
    with torch.no_grad():
        torch.testing.assert_close(first.inputs, x)
        torch.testing.assert_close(first.mean.float(), model[0](x).mean(0))
        torch.testing.assert_close(second.inputs, model[:2](x))
        torch.testing.assert_close(second.mean.float(), model(x).mean(0))


def test_both_matrices_of_a_low_rank_cross_layer_in_order() -> None:
    torch.manual_seed(0)
    model = Function(lambda m, x: x * m.u(m.v(x)) + x, u=nn.Linear(2, 6), v=nn.Linear(6, 2, bias=False))
    rows = [[torch.randn(9, 6)]]
    inner, outer = seen_by(fused(model), rows)
    with torch.no_grad():
        torch.testing.assert_close(inner.inputs, rows[0][0])
        torch.testing.assert_close(outer.inputs, model.v(rows[0][0]))


def test_a_limited_number_of_rows_is_kept() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    (first, _) = seen_by(fused(model), [[torch.randn(MOST_ROWS, 6)], [torch.randn(500, 6)]])
    assert len(first.inputs) == MOST_ROWS


def test_batches_are_read_until_there_are_enough_rows() -> None:
    program = fused(nn.Linear(6, 3))
    batch = (torch.randn(MOST_ROWS // 2 + 1, 6),)
    assert len(calibration_rows(program, [batch] * 5)) == 2


REFUSED: dict[str, tuple[Any, str]] = {
    "None": (None, "iterable of batches"),
    "no batch": ([], "no batch"),
    "an empty batch": ([(torch.zeros(0, 6),)], "no row|at least|rows"),
    "NaN": ([(torch.full((3, 6), torch.nan),)], "NaN"),
    "another width": ([(torch.randn(3, 5),)], "6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_data(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        calibration_rows(fused(nn.Linear(6, 3)), data)
    assert caught.value.hint


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_batches_run_together_give_what_each_gives(seed: int, sizes: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    program = fused(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    rows = [[torch.randn(size, 6, generator=rng)] for size in sizes]
    last = next(node for node in reversed(program.graph.nodes) if node.op == "call_function")
    held: list[Any] = []
    run_together(program, rows, lambda node, values: held.extend(map(dict, values)) if node is last else None)
    for leaves, values in zip(rows, held, strict=True):
        assert torch.equal(last.target(*torch.fx.map_arg(last.args, values.__getitem__)), program.run(leaves)[0])


def test_ids_outside_the_table_are_refused_and_the_table_is_named() -> None:
    program = capture(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)).eval(), (torch.tensor([1, 2]),))
    with pytest.raises(IdError, match="outside its table") as caught:
        run_together(program, [[torch.tensor([3, 9])]], lambda node, values: None)
    assert caught.value.where == "0.weight"
