"""quantize-tables on lookups of any number of ids, which cannot be fused into a concatenation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import recfx
from recfx.capture import capture
from recfx.ir import Program
from recfx.ops.lookup import Feature, encode, grouped_lookup
from recfx.passes.quantize.quantize_tables import QuantizeTables
from recfx.pipeline import run_pass


class Unpooled(nn.Module):
    """One row for each id, and a linear layer over the batch."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, dim)
        self.linear = nn.Linear(3, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.linear(dense), self.table(ids), self.table(ids + 1)


class Tied(Unpooled):
    def forward(self, dense: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.linear(dense), self.table(ids), self.table.weight.sum(0)


def _program(model: nn.Module) -> Program:
    batch, number = torch.export.Dim("batch", min=1), torch.export.Dim("number", min=0)
    example = (torch.randn(4, 3), torch.arange(7))
    return capture(model.eval(), example, dynamic_shapes={"dense": {0: batch}, "ids": {0: number}})


def test_the_table_is_stored_in_fewer_bits_and_answers_stay_close() -> None:
    model = Unpooled()
    after, record = run_pass(QuantizeTables(), _program(model))
    assert record.misses == ()
    assert record.state_bytes[1] < record.state_bytes[0] / 2
    for number in (0, 1, 20):
        dense, ids = torch.randn(2, 3), torch.arange(number)
        for want, got in zip(model(dense, ids), after(dense, ids), strict=True):
            torch.testing.assert_close(got, want, atol=0.02, rtol=0.0)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Tied(), "sum_1 reads the table as well"), (Unpooled(1), "a row of 1 would take 5 bytes instead of 4")],
)
def test_a_table_that_stays_as_it_is_keeps_its_plain_lookup(model: nn.Module, reason: str) -> None:
    after, record = run_pass(QuantizeTables(), _program(model))
    assert {miss.reason for miss in record.misses} == {reason}
    assert record.fired == 0
    assert not any(node.target is grouped_lookup for node in after.graph.nodes)


def test_a_grouped_lookup_takes_no_ids_at_all() -> None:
    feature = Feature(0, 0, 4, 0)
    ids = torch.empty(0, 1, dtype=torch.int64)
    assert grouped_lookup([torch.ones(3, 4)], [ids], [], [], [], encode([feature]), [], 4).shape == (0, 4)


class Beside(nn.Module):
    def forward(self, x: Tensor, prices: Tensor) -> Tensor:
        return x * prices


def test_sizes_that_are_fixed_to_the_examples_are_named() -> None:
    fast = recfx.optimize(Beside().eval(), example_inputs=(torch.randn(4, 5), torch.randn(5)), measure=False)
    assert any("prices [5]" in notice and "dynamic_shapes" in notice for notice in fast.report.notices)
