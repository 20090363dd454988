"""What composed tables share: padding rows, the whole table, weights of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.errors import InputError
from recfx.learn.composed_tables import QuotientRemainderTable, TensorTrainTable
from recfx.learn.composed_tables.base import row_weights


@pytest.mark.parametrize("kind", [QuotientRemainderTable, TensorTrainTable])
def test_the_padding_row_is_zero_and_the_weight_is_the_whole_table(kind: Any) -> None:
    torch.manual_seed(0)
    table = kind(11, 6, padding_idx=3)
    ids = torch.tensor([[0, 3], [10, 3]])
    found = table(ids)
    assert found.shape == (2, 2, 6)
    assert not bool(found[:, 1].any())
    assert bool(found[:, 0].any())
    torch.testing.assert_close(found, table.weight[ids])
    assert table.weight.shape == (11, 6)
    assert "11, 6" in repr(table)


def test_rows_that_are_never_read_count_a_little() -> None:
    found = row_weights(3, torch.tensor([4, 0, 2]))
    assert found[0] > found[2] > found[1] > 0
    assert torch.equal(row_weights(2, None), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("counts", [torch.ones(2), torch.tensor([1.0, -1.0, 0.0]), torch.full((3,), torch.nan)])
def test_wrong_counts_are_refused(counts: torch.Tensor) -> None:
    with pytest.raises(InputError, match="counts of a table of 3 rows") as caught:
        row_weights(3, counts)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "says"),
    [
        (QuotientRemainderTable, (0, 4), {}, "0 rows"),
        (QuotientRemainderTable, (9, 4), {"padding_idx": 9}, "no padding row 9"),
        (QuotientRemainderTable, (9, 4), {"collisions": 10}, "collisions=10"),
        (QuotientRemainderTable, (9, 4), {"combine": "concat"}, "'concat'"),
        (TensorTrainTable, (9, 4), {"rank": 0}, "rank=0"),
    ],
)
def test_wrong_sizes_are_refused(kind: Any, sizes: tuple[int, int], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        kind(*sizes, **options)
    assert caught.value.hint
