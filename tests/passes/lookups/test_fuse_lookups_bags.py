"""fuse-lookups on bags: the offsets of bags of fixed length, padding together with bases, and untraced cases."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from lookup_cases import features
from pass_cases import operators, run
from torch import fx

from recfx.ir import Exactness, Program, verify_meta, verify_numeric
from recfx.ops.lookup import JAGGED, MEAN, NONE, SUM, Feature, encode, grouped_lookup
from recfx.testing import GraphBuilder

aten = torch.ops.aten
ROWS, DIM, LENGTH = 23, 2, 3


def table(b: GraphBuilder, name: str = "t", rows: int = ROWS) -> fx.Node:
    return b.state(name, torch.randn(rows, DIM, generator=torch.Generator().manual_seed(len(name))))


def bag(
    b: GraphBuilder,
    ids: fx.Node,
    offsets: fx.Node,
    *,
    last: bool = False,
    padding: int | None = None,
    weights: Any = None,
    mode: int = 0,
) -> fx.Node:
    call = b.call(aten.embedding_bag.padding_idx, table(b), ids, offsets, False, mode, False, weights, last, padding)
    return b.call(operator.getitem, call, 0)


def flat(b: GraphBuilder, node: fx.Node) -> fx.Node:
    return b.call(aten.reshape.default, node, [-1])


def kept(program: Program) -> list[Feature]:
    """Returns the features afterwards, empty without a fusion; checks that the results are preserved on the example and
    on other batches."""
    result = run("fuse-lookups", program).program
    verify_meta(result)
    for one, other in zip(program.run(program.example), result.run(program.example), strict=True):
        torch.testing.assert_close(one, other)
    verify_numeric(program, result, Exactness.REASSOC)
    return [feature for call in features(result) for feature in call]


def test_bags_without_further_arguments() -> None:
    """The offsets of the shortest call do not end with the number of ids."""
    b = GraphBuilder({"ids": (("n",), torch.int64), "offsets": (("batch",), torch.int64)})
    call = b.call(aten.embedding_bag.default, table(b), b.inputs["ids"], b.inputs["offsets"])
    program = b.build(b.call(operator.getitem, call, 0))
    (feature,) = features(run("fuse-lookups", program).program)[0]
    assert (feature.last, feature.pooling, feature.padding, feature.weights) == (False, SUM, -1, -1)


OFFSETS: dict[str, tuple[list[int], bool, bool]] = {
    "even": ([0, 3, 6, 9], False, True),
    "another step": ([0, 2, 4, 6], False, False),
    "uneven": ([0, 3, 6, 10], False, False),
    "empty bags": ([0, 0, 3, 3], False, False),
    "too few": ([0, 3, 6], False, False),
    "one": ([0], False, False),
    "the number of ids behind": ([0, 3, 6, 9, 12], True, False),
    "the last bag cut off": ([0, 3, 6, 9], True, False),
    "uneven with the number of ids": ([0, 1, 6, 9, 12], True, False),
}


@pytest.mark.parametrize("case", OFFSETS)
def test_constant_offsets(case: str) -> None:
    offsets, last, fixed = OFFSETS[case]
    b = GraphBuilder({"ids": ((4, LENGTH), torch.int64)})
    (held,) = kept(b.build(bag(b, flat(b, b.inputs["ids"]), b.state("offsets", torch.tensor(offsets)), last=last)))
    assert held.length == (LENGTH if fixed else JAGGED)
    assert held.last is (last or fixed)


def test_constant_offsets_that_start_elsewhere_are_refused_as_before() -> None:
    b = GraphBuilder({"ids": ((4, LENGTH), torch.int64)})
    program = b.build(bag(b, flat(b, b.inputs["ids"]), b.state("offsets", torch.tensor([1, 4, 7, 10]))))
    result = run("fuse-lookups", program).program
    for made in (program, result):
        with pytest.raises((RuntimeError, IndexError)):
            made.run(program.example)


@pytest.mark.parametrize(
    ("start", "step", "of", "fixed"),
    [(0, 3, "ids", True), (0, 2, "pairs", False), (0, 3, "pairs", False), (1, 3, "ids", None), (-3, 3, "ids", None)],
)
def test_offsets_from_a_range(start: int, step: int, of: str, fixed: bool | None) -> None:
    b = GraphBuilder({"ids": (("batch", LENGTH), torch.int64), "pairs": (("batch", 2), torch.int64)})
    ids = flat(b, b.inputs["ids"])
    end = b.call(aten.sym_numel.default, b.inputs[of])
    if start < 0:
        end = b.call(operator.sub, end, 3)
    program = b.build(bag(b, ids, b.call(aten.arange.start_step, start, end, step)))
    if fixed is None:  # torch refuses offsets that do not start at 0, and so must its replacement
        result = run("fuse-lookups", program).program
        assert not any(feature.length == LENGTH for call in features(result) for feature in call)
        return
    assert [feature.length for feature in kept(program)] == [LENGTH if fixed else JAGGED]


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("padding", [None, 0, 5, -1])
@pytest.mark.parametrize("base", [0, 3, [3, 3, 3], [0, 1, 2]])
def test_padding_is_compared_before_a_base_is_added(mode: int, padding: int | None, base: Any) -> None:
    b = GraphBuilder({"ids": (("batch", LENGTH), torch.int64)})
    ids = b.inputs["ids"]
    shifted = ids
    if base != 0:
        shifted = b.call(aten.add.Tensor, ids, base if isinstance(base, int) else b.state("base", torch.tensor(base)))
    offsets = b.call(aten.arange.start_step, 0, b.call(aten.sym_numel.default, shifted), LENGTH)
    program = b.build(bag(b, flat(b, shifted), offsets, padding=padding, mode=mode))
    example = torch.randint(0, ROWS - 3, (40, LENGTH), generator=torch.Generator().manual_seed(0))
    example[:12] = torch.tensor([0, 2, 5, 1, ROWS - 4, ROWS - 5]).repeat(6).reshape(12, 3)
    program.example = (example,)
    (feature,) = kept(program)
    even = base in (3, [3, 3, 3])
    assert feature.base == (3 if even and padding is None else 0)
    assert feature.padding == (-1 if padding is None else padding % ROWS)
    assert feature.pooling == (MEAN if mode else SUM)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("padding", [-1, 4])
@pytest.mark.parametrize("own", [0, 2])
@pytest.mark.parametrize("added", [0, 3, [3, 3, 3], [0, 1, 2]])
def test_lookups_that_are_grouped_already_keep_their_bases(added: Any, own: int, padding: int, column: int) -> None:
    """Each lookup reads the original ids, with its own base plus the number that was added to the ids."""
    b = GraphBuilder({"ids": (("batch", LENGTH), torch.int64)})
    ids = b.inputs["ids"]
    if added != 0:
        ids = b.call(aten.add.Tensor, ids, added if isinstance(added, int) else b.state("base", torch.tensor(added)))
    length = LENGTH - column
    feature = Feature(0, 0, DIM, 0, column=column, length=length, pooling=SUM, padding=padding, base=own)
    calls = [
        b.call(grouped_lookup, [table(b, name)], [ids], [], [], [], encode([feature]), [], DIM) for name in ("t", "tt")
    ]
    program = b.build(b.call(aten.cat.default, calls, 1))
    example = torch.randint(0, ROWS - 6, (40, LENGTH), generator=torch.Generator().manual_seed(0))
    example[:10] = torch.tensor([4, 1, 2])
    program.example = (example,)
    held = kept(program)
    assert len(held) == 2
    even = added in (3, [3, 3, 3]) or (added == [0, 1, 2] and length == 1)
    traced = added == 0 or (even and padding < 0)
    assert {feature.base for feature in held} == {own + (3 if even and traced else 0)}
    assert {feature.column for feature in held} == {column}


@pytest.mark.parametrize("pooling", [SUM, NONE])
def test_several_ids_of_a_grouped_lookup_side_by_side(pooling: int) -> None:
    b = GraphBuilder({"ids": (("batch", 5), torch.int64)})
    part = b.call(aten.slice.Tensor, b.inputs["ids"], 1, 1, 4)
    feature = Feature(0, 0, DIM, 0, column=1, length=2, pooling=pooling)
    calls = [
        b.call(grouped_lookup, [table(b, name)], [part], [], [], [], encode([feature]), [], feature.columns)
        for name in ("t", "tt")
    ]
    held = kept(b.build(b.call(aten.cat.default, calls, 1)))
    assert [(f.column, f.length, f.pooling) for f in held] == [(2, 2, pooling)] * 2


def test_dense_columns_of_a_grouped_lookup_are_not_lost() -> None:
    """A lookup that also copies dense features: its columns may be merged, but all of them stay."""
    b = GraphBuilder({"ids": (("batch", 2), torch.int64), "dense": ("batch", 4)})
    dense = b.call(aten.slice.Tensor, b.inputs["dense"], 1, 1, 3)
    feature = Feature(0, 0, DIM, 0)
    both = b.call(grouped_lookup, [table(b)], [b.inputs["ids"]], [], [], [dense], encode([feature]), [0, DIM], DIM + 2)
    other = b.call(aten.embedding.default, table(b, "tt"), b.call(aten.select.int, b.inputs["ids"], 1, 1))
    again = b.call(aten.slice.Tensor, b.inputs["dense"], 1, 0, 2)
    kept(b.build(b.call(aten.cat.default, [both, other, again], 1)))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [1, 3, 2, 0]])
@pytest.mark.parametrize("cuts", [[(0, 2), (2, 5)], [(1, 3), (0, 1)], [(3, 5), (3, 5)]])
def test_slices_of_dense_features_beside_lookups_stay_where_they_are(
    order: list[int], cuts: list[tuple[int, int]]
) -> None:
    b = GraphBuilder({"ids": (("batch", 2), torch.int64), "dense": ("batch", 5)})
    parts = [b.call(aten.slice.Tensor, b.inputs["dense"], 1, start, end) for start, end in cuts]
    for column, name in enumerate(("t", "tt")):
        parts.append(
            b.call(aten.embedding.default, table(b, name), b.call(aten.select.int, b.inputs["ids"], 1, column))
        )
    program = b.build(b.call(aten.cat.default, [parts[at] for at in order], 1))
    assert len(kept(program)) == 2
    assert operators(run("fuse-lookups", program).program)["aten.cat"] == 0


def test_ids_of_another_dtype_keep_their_offsets() -> None:
    b = GraphBuilder({"ids": (("batch", LENGTH), torch.int32)})
    offsets = b.call(aten.arange.start_step, 0, b.call(aten.sym_numel.default, b.inputs["ids"]), LENGTH)
    narrow = b.call(aten.to.dtype, offsets, torch.int32)
    assert [feature.length for feature in kept(b.build(bag(b, flat(b, b.inputs["ids"]), narrow)))] == [JAGGED]


@pytest.mark.parametrize("same", [True, False])
def test_weights_of_a_bag_are_a_matrix_like_its_ids(same: bool) -> None:
    b = GraphBuilder({"ids": (("batch", LENGTH), torch.int64), "w": ("batch", LENGTH), "v": (LENGTH, "batch")})
    ids = flat(b, b.inputs["ids"])
    offsets = b.call(aten.arange.start_step, 0, b.call(aten.sym_numel.default, ids), LENGTH)
    weights = flat(b, b.inputs["w" if same else "v"])
    program = b.build(bag(b, ids, offsets, weights=weights), b.inputs["v"])
    held = kept(program)
    assert [(feature.length, feature.weights) for feature in held] == ([(LENGTH, 0)] if same else [])
