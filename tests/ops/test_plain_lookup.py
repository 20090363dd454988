"""Grouped lookups with torch's own embedding operators."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from native_kit import generator, program_of
from torch.nn import functional

from recfx.ir.region import Region
from recfx.ops import lookup
from recfx.ops.lookup import Feature
from recfx.runtime.flat import flat_source
from recfx.targets.eager.lookups import with_plain_lookups

TABLE = torch.randn(9, 4, generator=generator(1))
IDS = torch.tensor([[1, 2, 3, 0], [8, 0, 0, 5], [4, 4, 7, 1]])
WEIGHTS = torch.rand(3, 4, generator=generator(2))


def _run(features: list[Feature], *tensors: Any, copies: list[int] | None = None) -> torch.Tensor:
    return lookup.plain_lookup(lookup.encode(features), copies or [])(*tensors)


def test_fixed_bags() -> None:
    features = [
        Feature(0, 0, 4, 6, column=2),
        Feature(0, 0, 4, 10, column=1, length=3),
        Feature(0, 0, 4, 14, length=4, pooling=lookup.MEAN, padding=0),
        Feature(0, 0, 4, 18, length=4, weights=0),
        Feature(0, 0, 4, 22, length=2, pooling=lookup.NONE),
        Feature(0, 0, 4, 30, column=3, base=1),
    ]
    dense = torch.randn(3, 6, generator=generator(3))
    found = _run(features, [TABLE], [IDS], [], [WEIGHTS], [dense], copies=[0, 0])
    rows, kept = TABLE[IDS], (IDS != 0).unsqueeze(-1)
    expected = [
        dense,
        rows[:, 2],
        rows[:, 1:].sum(1),
        (rows * kept).sum(1) / kept.sum(1).clamp(min=1),
        (rows * WEIGHTS.unsqueeze(-1)).sum(1),
        rows[:, :2].flatten(1),
        TABLE[IDS[:, 3] + 1],
    ]
    torch.testing.assert_close(found, torch.cat(expected, 1))


@pytest.mark.parametrize("last", [True, False])
def test_jagged_runs(last: bool) -> None:
    """Two runs of three bags in one tensor of offsets, one bag empty."""
    ids = torch.tensor([1, 2, 3, 8, 0, 0, 5, 4])
    bounds = [0, 2, 2, 4, 5, 7, 8]
    offsets = torch.tensor(bounds if last else bounds[:-1], dtype=torch.int32)
    features = [
        Feature(0, 0, 4, 4 * s, length=lookup.JAGGED, offsets=0, segment=s, segments=2, last=last) for s in range(2)
    ]
    found = _run(features, [TABLE], [ids], [offsets], [], [])
    bags = [TABLE[ids[a:b]].sum(0) for a, b in itertools.pairwise(bounds)]
    torch.testing.assert_close(found, torch.cat([torch.stack(bags[:3]), torch.stack(bags[3:])], 1))


@pytest.mark.parametrize("offsets", [[0, 3, 2], [-1, 1, 2], [0, 1, 5]])
def test_offsets_that_are_no_bags(offsets: list[int]) -> None:
    feature = Feature(0, 0, 4, 0, length=lookup.JAGGED, offsets=0)
    with pytest.raises(IndexError, match="within the 4 ids"):
        _run([feature], [TABLE], [torch.arange(4)], [torch.tensor(offsets)], [], [])


@pytest.mark.parametrize("number", [-1, 9])
@pytest.mark.parametrize("length", [1, 2])
def test_ids_outside_the_table(length: int, number: int) -> None:
    with pytest.raises(IndexError, match=r"\[0, 9\)"):
        _run([Feature(0, 0, 4, 0, length=length)], [TABLE], [torch.full((2, 2), number)], [], [], [])


@pytest.mark.parametrize("number", [0, 8])
def test_another_fault_does_not_blame_ids_inside_the_table(number: int) -> None:
    ids, weights = torch.full((3, 4), number), torch.rand(3, 3)
    with pytest.raises(RuntimeError, match="exceeds dimension size") as caught:
        _run([Feature(0, 0, 4, 0, length=4, weights=0)], [TABLE], [ids], [], [weights], [])
    assert "index out of range" not in str(caught.value)


def test_the_eager_backend_calls_no_dispatcher() -> None:
    numbers = lookup.encode([Feature(0, 0, 4, 0, length=4)])
    program = program_of(lambda i, t: lookup.grouped_lookup([t], [i], [], [], [], numbers, [], 4) * 2, [IDS], [TABLE])
    source, names = flat_source(with_plain_lookups(Region.whole(program)))
    assert "plain_lookup" in source
    assert lookup.grouped_lookup not in names.values()
    assert any(n.target is lookup.grouped_lookup for n in program.graph.nodes)  # the program itself stays as it is
    expected = functional.embedding_bag(IDS, TABLE, mode="sum") * 2
    namespace = dict(names)
    exec(source, namespace)
    torch.testing.assert_close(namespace["run"](IDS)[0], expected)
