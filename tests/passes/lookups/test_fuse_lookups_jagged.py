"""fuse-lookups on bags of any length, given by offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lookup_cases import DENSE, IDS, features, tables
from pass_cases import Function, run
from torch.nn import functional as F

from recfx.capture import capture
from recfx.ir import verify_meta
from recfx.ops.lookup import JAGGED

aten = torch.ops.aten


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
    """With fixed shapes, offsets are already a constant."""

    def body(m: Any, ids: torch.Tensor, dense: torch.Tensor) -> Any:
        return torch.cat([dense, F.embedding_bag(ids.reshape(-1), m.a.weight, m.offsets, mode="sum")], 1)

    made = Function(body, **tables(), offsets=torch.arange(0, 4 * step, step))
    ids = IDS[:4, :3].contiguous()
    program = capture(made, (ids, DENSE[:4]), dynamic_shapes=False)
    result = run("fuse-lookups", program)
    ((feature,),) = features(result.program)
    assert feature.length == (3 if step == 3 else JAGGED)
    torch.testing.assert_close(result.program(ids, DENSE[:4]), program(ids, DENSE[:4]))


def _starts(sizes: torch.Tensor) -> torch.Tensor:
    sums = torch.cumsum(sizes, -1)
    return torch.cat([sums.new_zeros(1), sums], -1)


def _cut(x: torch.Tensor, start: int, size: int) -> torch.Tensor:
    torch._check(start >= 0)
    torch._check(size >= 0)
    torch._check(start + size <= x.shape[0])
    return torch.narrow(x, 0, start, size)


def one_key(
    key: int, *, size_of: int | None = None, begin: int | None = None, other: bool = False
) -> Callable[..., Any]:
    """The bags of one of three keys, cut out of the values of all keys; keyword arguments change the cut."""

    def body(m: Any, values: torch.Tensor, lengths: torch.Tensor) -> Any:
        by_key = lengths.view(3, -1)
        sizes = by_key.sum(1)
        starts = _starts(torch.stack([torch.scalar_tensor(s.item(), dtype=torch.int32) for s in sizes.unbind()]))
        start = starts[key if begin is None else begin].item()
        size = sizes[key if size_of is None else size_of].item()
        own = (lengths + 1).view(3, -1).select(0, key) if other else by_key.select(0, key)
        ids = _cut(values, start, size)
        pooled = F.embedding_bag(ids, m.a.weight, _starts(own), mode="sum", include_last_offset=True)
        return pooled * 2

    return body


def keyed_program(body: Callable[..., Any]) -> Any:
    batch, count = torch.export.Dim("batch", min=1, max=99), torch.export.Dim("values", min=0)
    lengths = torch.tensor([2, 0, 1, 1, 3, 0, 2, 0, 2, 1, 0, 1])
    inputs = (IDS.flatten()[:13], lengths)
    shapes = {"inputs": ({0: count}, {0: 3 * batch})}
    return capture(Function(body, **tables()), inputs, dynamic_shapes=shapes, check=False)


@pytest.mark.parametrize("key", [0, 1, 2])
def test_one_key_of_several_is_read_where_it_lies(key: int) -> None:
    program = keyed_program(one_key(key))
    result = run("canonicalize,fuse-lookups", program)
    ((feature,),) = features(result.program)
    assert (feature.length, feature.segment, feature.segments) == (JAGGED, key, 3)
    left = [n for n in result.program.graph.nodes if n.target in (aten.item.default, aten.narrow.default)]
    assert not left
    verify_meta(result.program)
    for lengths in ([2, 5, 6], [13, 0, 0], [0, 0, 0, 13, 0, 0], [4, 4, 1, 1, 0, 3]):
        ends = int(sum(lengths))
        leaves = (IDS.flatten()[:ends], torch.tensor(lengths))
        torch.testing.assert_close(result.program(*leaves), program(*leaves))


@pytest.mark.parametrize(
    "changes",
    [{"size_of": 2}, {"begin": 0}, {"begin": 2}, {"other": True}],
    ids=lambda changes: ",".join(changes),
)
def test_a_cut_that_is_not_the_bags_of_a_key_keeps_its_own_ids(changes: dict[str, Any]) -> None:
    result = run("canonicalize,fuse-lookups", keyed_program(one_key(1, **changes)))
    assert all(feature.segments == 1 for lookup in features(result.program) for feature in lookup)
