"""fuse-lookups on bags of any length, given by offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lookup_cases import DENSE, IDS, features, tables
from pass_cases import Function, run
from torch.nn import functional as F

from recfx.ir import capture, verify_meta
from recfx.ops.lookup import JAGGED


def jagged(last: bool, mode: str, weighted: bool) -> Callable[..., Any]:
    def body(m: Any, values: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor, dense: torch.Tensor) -> Any:
        factors = weights if weighted else None
        pooled = F.embedding_bag(
            values, m.a.weight, offsets, mode=mode, include_last_offset=last, per_sample_weights=factors
        )
        return torch.cat([dense, pooled], 1)

    return body


@pytest.mark.parametrize(
    ("last", "mode", "weighted"), [(False, "sum", False), (True, "mean", False), (False, "sum", True)]
)
def test_jagged_bags(last: bool, mode: str, weighted: bool) -> None:
    batch, values = torch.export.Dim("batch", min=1, max=99), torch.export.Dim("values", min=0)
    offsets = torch.tensor([0, 2, 2, 5, 7] if last else [0, 2, 2, 5])
    made = Function(jagged(last, mode, weighted), **tables())
    inputs = (IDS.flatten()[:7], offsets, torch.rand(7), DENSE)
    shapes = {"inputs": ({0: values}, {0: batch + 1 if last else batch}, {0: values}, {0: batch})}
    program = capture(made, inputs, dynamic_shapes=shapes)
    result = run("fuse-lookups", program)
    assert result.records[0].fired == 1, result.records[0].misses
    verify_meta(result.program)
    assert features(result.program)[0][0].length == JAGGED
    for lengths in ([3], [0], [1, 0], [2, 0, 3, 1, 0, 4, 2]):
        ends = torch.tensor(lengths).cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), ends])
        total = int(ends[-1])
        leaves = (
            IDS.flatten()[:total],
            starts if last else starts[:-1],
            torch.rand(total),
            torch.randn(len(lengths), 5),
        )
        torch.testing.assert_close(result.program(*leaves), program(*leaves))


@pytest.mark.parametrize("step", [3, 2])
def test_constant_offsets_that_are_even_are_bags_of_fixed_length(step: int) -> None:
    """Where shapes are fixed, offsets are a constant by then."""

    def body(m: Any, ids: torch.Tensor, dense: torch.Tensor) -> Any:
        return torch.cat([dense, F.embedding_bag(ids.reshape(-1), m.a.weight, m.offsets, mode="sum")], 1)

    made = Function(body, **tables(), offsets=torch.arange(0, 4 * step, step))
    ids = IDS[:4, :3].contiguous()
    program = capture(made, (ids, DENSE[:4]), dynamic_shapes=False)
    result = run("fuse-lookups", program)
    ((feature,),) = features(result.program)
    assert feature.length == (3 if step == 3 else JAGGED)
    torch.testing.assert_close(result.program(ids, DENSE[:4]), program(ids, DENSE[:4]))
