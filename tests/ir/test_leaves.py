"""Requirements on leaves of the inputs and on catalogues: accepted values, and refused values with their messages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from recfx.errors import InputError
from recfx.ir.catalogue import Catalogue, make_catalogue
from recfx.ir.leaves import LeafSpec, check_dimension, check_leaf, one_row
from recfx.ir.sizes import linear_size

CPU = torch.device("cpu")
DIMS = {"batch": (1, 9), "length": (0, None)}


def spec_of(*shape: int | str, dtype: torch.dtype = torch.float32, **more: Any) -> LeafSpec:
    return LeafSpec("f['x']", "tensor", dtype, CPU, shape, **more)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (spec_of("batch", 4), "f['x']: float32[batch, 4]"),
        (spec_of(dtype=torch.int64), "f['x']: int64[]"),
        (LeafSpec("k", "constant", value="mean"), "k='mean'"),
        (LeafSpec("n", "size", value="batch"), "n='batch'"),
    ],
)
def test_a_leaf_in_words(spec: LeafSpec, text: str) -> None:
    assert str(spec) == text


@pytest.mark.parametrize(
    ("spec", "leaf", "known", "after"),
    [
        (spec_of("batch", 4), torch.zeros(3, 4), {}, {"batch": 3}),
        (spec_of("batch", 4), torch.zeros(3, 4), {"batch": 3}, {"batch": 3}),
        (spec_of("2*batch + 1", "length"), torch.zeros(7, 0), {}, {"batch": 3, "length": 0}),
        (spec_of("batch + length"), torch.zeros(7), {}, {}),
        (spec_of("batch + length"), torch.zeros(7), {"batch": 3}, {"batch": 3}),
        (spec_of("batch + length"), torch.zeros(7), {"batch": 3, "length": 4}, {"batch": 3, "length": 4}),
        (spec_of(4, contiguous=True), torch.zeros(4), {}, {}),
        (spec_of(2, 3), torch.zeros(3, 2).T, {}, {}),
        (LeafSpec("n", "size", value="batch"), 7, {}, {}),
        (LeafSpec("k", "constant", value=1.5), 1.5, {}, {}),
        (LeafSpec("k", "constant", value=None), None, {}, {}),
    ],
)
def test_leaves_that_fit(spec: LeafSpec, leaf: Any, known: dict[str, int], after: dict[str, int]) -> None:
    sizes = dict(known)
    check_leaf(spec, leaf, sizes, DIMS)
    assert sizes == after


@pytest.mark.parametrize(
    ("spec", "leaf", "known", "what", "where"),
    [
        (spec_of(4), [0.0] * 4, {}, "expected a tensor, got list", r"f\['x'\]: float32\[4\]"),
        (spec_of(4), torch.zeros(4).double(), {}, "expected dtype torch.float32, got torch.float64", "f"),
        (spec_of(4), torch.zeros(4, device="meta"), {}, "expected a tensor on cpu, got one on meta", "f"),
        (spec_of(4, 4), torch.zeros(4, 4).to_sparse(), {}, "expected a dense tensor, got the layout torch.sparse_coo", "f"),
        (spec_of(4), torch.zeros(4, 1), {}, r"expected 1 dimensions, got shape \[4, 1\]", "f"),
        (spec_of(2, 3, contiguous=True), torch.zeros(3, 2).T, {}, r"expected a contiguous tensor, got strides \[1, 2\]", "f"),
        (spec_of("batch", 4), torch.zeros(3, 5), {}, "expected size 4, got 5", "dimension 1"),
        (spec_of("batch", 4), torch.zeros(3, 4), {"batch": 2}, "batch is 3 here and 2 in an earlier input", "dimension 0"),
        (spec_of("batch + 1"), torch.zeros(3), {"batch": 3}, r"expected batch \+ 1 = 4, got 3", "dimension 0"),
        (spec_of("2*batch"), torch.zeros(3), {}, "3 is not a multiple of 2$", "dimension 0"),
        (spec_of("2*batch + 1"), torch.zeros(4), {}, "4 is not a multiple of 2 plus 1", "dimension 0"),
        (LeafSpec("k", "constant", value=True), 1, {}, "the value True was built into the model .* now it is 1", "input k"),
        (LeafSpec("k", "constant", value=None), torch.zeros(2), {}, "the example inputs had None here, now it is", "input k"),
    ],
)  # fmt: skip
def test_leaves_that_do_not_fit(spec: LeafSpec, leaf: Any, known: dict[str, int], what: str, where: str) -> None:
    with pytest.raises(InputError) as caught:
        check_leaf(spec, leaf, dict(known), DIMS)
    assert re.search(what, caught.value.what), caught.value.what
    assert re.search(where, str(caught.value.where))


def test_an_integer_that_is_a_dimension() -> None:
    spec = LeafSpec("n", "size", value="batch")
    for leaf, sizes in ((3, {"batch": 3}), (5, {}), (0, {"batch": 0})):
        check_dimension(spec, leaf, sizes)
    for leaf, sizes in (
        (2, {"batch": 3}),
        (True, {"batch": 1}),
        (3.0, {"batch": 3}),
        (torch.tensor(3), {"batch": 3}),
        (None, {}),
    ):
        with pytest.raises(InputError, match="expected the size of batch"):
            check_dimension(spec, leaf, sizes)


NAN = float("nan")


@pytest.mark.parametrize("repeats", ["compared", "trusted"])
def test_one_row_or_the_same_row_for_each_candidate(repeats: Any) -> None:
    spec = spec_of(1, 2, repeats=repeats)
    row = torch.tensor([[1.0, NAN]])
    like = torch.zeros(3, 5)
    assert one_row(spec, row, like) is row
    found = one_row(spec, row.repeat(3, 1), like)
    assert found.shape == (1, 2)
    assert one_row(spec, row.repeat(4, 1), None).shape == (1, 2)
    assert one_row(spec, row.repeat(4, 1), torch.tensor(0.0)).shape == (1, 2)
    for odd in ("a", torch.tensor(1.0), None):
        assert one_row(spec, odd, like) is odd
    for rows in (2, 4, 0):
        with pytest.raises(InputError, match=rf"{rows} rows given for one request and 3 candidate\(s\)"):
            one_row(spec, row.repeat(rows, 1), like)
    with pytest.raises(InputError, match="0 rows given"):
        one_row(spec, row[:0], None)
    other = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, NAN]])
    if repeats == "trusted":
        assert torch.equal(one_row(spec, other, like), other[:1])
    else:
        with pytest.raises(InputError, match="row 2 differs from row 0"):
            one_row(spec, other, like)


@pytest.mark.parametrize(
    ("size", "known", "found"),
    [
        ("2*batch + 1", (), ("batch", 2, 1)),
        ("batch", (), ("batch", 1, 0)),
        ("batch - 3", (), ("batch", 1, -3)),
        ("batch", ("batch",), None),
        ("batch + length", (), None),
        ("batch**2", (), None),
        ("batch//2", (), None),
        ("4 - batch", (), None),
        ("0*batch", (), None),
        ("6//batch", (), None),
        ("batch + batch", (), ("batch", 2, 0)),
    ],
)
def test_sizes_that_one_dimension_decides(size: str, known: tuple[str, ...], found: Any) -> None:
    assert linear_size(size, known) == found


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def test_a_catalogue_knows_where_ids_stand() -> None:
    made = make_catalogue({"item": ids(4, 0, 2), "price": torch.rand(3), "tags": torch.zeros(3, 5)})
    assert (made.key, list(made.columns), made.first) == ("item", ["price", "tags"], None)
    assert made.places().tolist() == [1, -1, 2, -1, 0]
    assert Catalogue("item", ids(3, 4, 5), {}).first == 3
    assert Catalogue("item", ids(0), {}).first == 0
    assert Catalogue("item", ids(3, 5), {}).first is None
    assert Catalogue("item", ids(3, 4), {}).places().tolist() == [-1, -1, -1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": ids(1, 2).int()}, r"must hold all ids, int64 \[n\], got torch.int32 \[2\]"),
        ({"item": ids(1, 2)[None]}, r"got torch.int64 \[1, 2\]"),
        ({"item": torch.tensor(3)}, r"got torch.int64 \[\]"),
        ({"item": ids()}, r"got torch.int64 \[0\]"),
        ({"item": ids(1, -1)}, "must be different and not negative"),
        ({"item": ids(1, 2, 1)}, "must be different and not negative"),
        ({"item": ids(1, 2), "price": torch.rand(3)}, r"column 'price' has the shape \[3\]"),
        ({"item": ids(1, 2), "price": torch.tensor(1.0)}, r"column 'price' has the shape \[\]"),
    ],
)
def test_what_is_no_catalogue(columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_catalogue(columns)
