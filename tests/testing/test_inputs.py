"""Inputs of random graphs: tables that bound ids, offsets of bags, and the batches of a trial."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

from recfx.ir import Program
from recfx.ops.lookup import JAGGED, NONE, Feature, encode, grouped_lookup
from recfx.testing import GraphBuilder
from recfx.testing.arguments import argument_names, optional_arguments
from recfx.testing.inputs import (
    EXTREME_SPECIALS,
    LARGE_BATCHES,
    ORDINARY_SPECIALS,
    id_bounds,
    offsets_of_bags,
    random_leaves,
    trial_inputs,
)
from recfx.testing.strategies import _step_counts

aten = torch.ops.aten


class Lookups(GraphBuilder):
    """Ids [batch, 4], and lookups in tables with given numbers of rows."""

    def __init__(self, **more: Any) -> None:
        super().__init__({"ids": (("batch", 4), torch.int64), "x": ("batch", 2), **more})

    def table(self, rows: int) -> Any:
        return self.state(f"t{rows}", torch.zeros(rows, 2))

    def look(self, rows: int, ids: Any) -> Any:
        return self.call(aten.embedding.default, self.table(rows), ids)

    def column(self, index: int) -> Any:
        return self.call(aten.select.int, self.inputs["ids"], 1, index)

    def grouped(self, rows: int, ids: Any, **feature: int) -> Any:
        made = Feature(0, 0, 2, 0, **feature)  # type: ignore[arg-type]
        return self.call(grouped_lookup, [self.table(rows)], [ids], [], [], [], encode([made]), [], made.columns)


def bounds(program: Program) -> dict[int | None, int]:
    found = id_bounds(program)
    return found.get(program.placeholders()[0], {})


def test_ids_are_bounded_by_the_smallest_table_they_reach() -> None:
    b = Lookups()
    assert bounds(b.build(b.look(9, b.column(1)), b.look(5, b.column(1)), b.look(7, b.column(3)))) == {1: 5, 3: 7}
    b = Lookups()
    moved = b.call(aten.reshape.default, b.call(aten.clone.default, b.inputs["ids"]), [-1])
    assert bounds(b.build(b.look(9, moved), b.look(6, b.column(0)))) == {None: 9, 0: 6}
    b = Lookups()
    part = b.call(aten.select.int, b.call(aten.slice.Tensor, b.inputs["ids"], 1, 1, 3), 1, 0)
    assert bounds(b.build(b.look(9, part))) == {None: 9}  # a column of a part: all are bounded
    b = Lookups()
    assert bounds(b.build(b.look(9, b.call(aten.remainder.Scalar, b.inputs["ids"], 3)))) == {}
    b = Lookups()
    assert bounds(b.build(b.call(aten.neg.default, b.inputs["ids"]))) == {}


def test_ids_of_grouped_lookups_are_bounded_behind_the_base() -> None:
    b = Lookups()
    assert bounds(b.build(b.grouped(9, b.inputs["ids"], column=1, length=2, base=3))) == {1: 6, 2: 6}
    b = Lookups()
    assert bounds(b.build(b.grouped(9, b.inputs["ids"], column=3), b.grouped(5, b.inputs["ids"], column=3))) == {3: 5}
    b = Lookups()
    assert bounds(b.build(b.grouped(9, b.column(2)))) == {2: 9}
    b = Lookups()
    assert bounds(b.build(b.grouped(9, b.inputs["ids"], column=2, length=2, pooling=NONE))) == {2: 9, 3: 9}


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_offsets_belong_to_the_ids_they_bound(last: bool, grouped: bool) -> None:
    size = "batch + 1" if last else "batch"
    b = Lookups(values=(("values",), torch.int64), offsets=((size,), torch.int64))
    ids, offsets = b.inputs["values"], b.inputs["offsets"]
    if grouped:
        feature = Feature(0, 0, 2, 0, length=JAGGED, offsets=0, last=last)
        bag = b.call(grouped_lookup, [b.table(9)], [ids], [offsets], [], [], encode([feature]), [], 2)
    else:
        call = b.call(aten.embedding_bag.padding_idx, b.table(9), ids, offsets, False, 0, False, None, last, None)
        bag = b.call(operator.getitem, call, 0)
    program = b.build(bag)
    place = {node.name: node for node in program.placeholders()}
    assert offsets_of_bags(program) == {place["offsets"]: (place["values"], last)}
    assert id_bounds(program) == {place["values"]: {None: 9}}
    for seed in range(20):
        _, _, values, starts = random_leaves(program, 4, torch.Generator().manual_seed(seed))
        assert len(starts) == 4 + last
        assert int(starts[0]) == 0
        assert bool((starts.diff() >= 0).all())
        assert int(starts[-1]) <= len(values)
        assert not last or int(starts[-1]) == len(values)
        assert int(values.max()) < 9
        program.run([torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 2), values, starts])


def test_values_of_every_kind() -> None:
    b = Lookups(mask=(("batch", 3), torch.bool), half=(("batch", 3), torch.float16), length=(("longer",), torch.int32))
    program = b.build(
        b.look(9, b.column(1)), b.look(3, b.column(2)), *(b.inputs[n] for n in ("mask", "half", "length"))
    )
    seen: dict[int, set[int]] = {column: set() for column in range(4)}
    equal, ends = 0, 0
    for seed in range(60):
        ids, x, mask, half, length = random_leaves(program, 5, torch.Generator().manual_seed(seed))
        assert [tuple(t.shape) for t in (ids, x, mask, half, length)] == [(5, 4), (5, 2), (5, 3), (5, 3), (6,)]
        assert [t.dtype for t in (mask, half, length)] == [torch.bool, torch.float16, torch.int32]
        assert float(x.abs().max()) <= 2
        assert bool((x < 0).any() | (x > 0).any())
        assert int(length.min()) >= 0
        assert int(length.max()) < 8
        for column in seen:
            seen[column] |= set(ids[:, column].tolist())
        equal += len(set(ids[:, 1].tolist())) == 1
        ends += set(ids[:, 1].tolist()) == {0, 8}
    assert seen[1] == set(range(9))
    assert seen[2] == set(range(3))
    assert seen[0] == seen[3] == set(range(8))  # in no table
    assert equal >= 5
    assert ends >= 5


@pytest.mark.parametrize(("low", "high"), [(1, None), (1, 4), (3, 65536)])
def test_the_batches_of_a_trial(low: int, high: int | None) -> None:
    b = Lookups()
    program = b.build(b.look(9, b.column(1)), b.inputs["x"])
    program.signature.dims["batch"] = (low, high)
    large: set[int] = set()
    for seed in range(30):
        trials = list(trial_inputs(program, torch.Generator().manual_seed(seed), specials=EXTREME_SPECIALS))
        names = [name for name, _ in trials]
        large.add(int(names[3].split()[0]))
        assert names[:3] == ["1 row(s)", "2 row(s)", "5 row(s)"]
        assert names[4:] == [
            "1 row(s) of special numbers",
            "7 row(s) of special numbers",
            "zeros",
            "halves",
            "negative numbers",
        ]
        wanted = [1, 2, 5, int(names[3].split()[0]), 1, 7, 3, 6, 4]
        assert [len(leaves[0]) for _, leaves in trials] == [max(low, min(rows, high or rows)) for rows in wanted]
        by_name = dict(trials)
        assert not by_name["zeros"][1].any()
        assert torch.equal(by_name["halves"][1] * 2, (by_name["halves"][1] * 2).round())
        assert float(by_name["negative numbers"][1].max()) <= -0.1
        assert all(leaves[0].dtype == torch.int64 and int(leaves[0].min()) >= 0 for _, leaves in trials)
    assert large <= set(LARGE_BATCHES)
    assert len(large) >= 6


@pytest.mark.parametrize("specials", [ORDINARY_SPECIALS, EXTREME_SPECIALS])
def test_special_numbers_stand_in_about_a_quarter_of_the_places(specials: tuple[float, ...]) -> None:
    b = Lookups()
    program = b.build(b.inputs["x"], b.inputs["ids"])
    held = []
    for seed in range(60):
        trials = dict(trial_inputs(program, torch.Generator().manual_seed(seed), specials=specials))
        held += trials["7 row(s) of special numbers"][1].flatten().tolist()
    kinds = {str(torch.tensor(number).item()) for number in specials}
    found = [str(number) for number in held if str(number) in kinds]
    assert set(found) == kinds
    assert 0.18 < len(found) / len(held) < 0.32


def test_counts_of_steps_favour_larger_graphs() -> None:
    assert _step_counts(4) == [1, 2, 3, 4, 3, 4, 3, 4]
    assert _step_counts(1) == [1]
    counts = _step_counts(10)
    assert counts[:10] == list(range(1, 11))
    assert counts.count(10) == 9
    assert counts.count(2) == 1


def test_optional_arguments_are_read_from_the_schema() -> None:
    assert argument_names(aten.gelu.default) == ("self", "approximate")
    ((name, option),) = optional_arguments(aten.gelu.default).items()
    assert (name, option.place, option.by_keyword, option.values) == ("approximate", 1, True, ("none", "tanh"))
    alpha = optional_arguments(aten.add.Tensor)["alpha"]
    assert (alpha.place, alpha.by_keyword) == (2, True)
    assert {1, 2, 0.5, 0, -1} <= set(alpha.values)
    summed = optional_arguments(aten.sum.dim_IntList)
    assert set(summed) == {"keepdim", "dtype"}
    assert (summed["keepdim"].place, summed["keepdim"].by_keyword) == (2, False)
    assert summed["keepdim"].values == (True, False)
    assert "pin_memory" not in optional_arguments(aten.zeros_like.default)
    assert optional_arguments(operator.getitem) == {}
