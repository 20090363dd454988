"""Offsets of jagged bags that do not fit their ids: an error names the bag, and no read is outside ids, weights or offsets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ids_kit import LONGEST, ROWS, guarded, inputs, made, program, rows_in
from native_kit import LEVELS, lower, needs_kernels

from recfx.errors import InputError
from recfx.ops import lookup
from recfx.testing.builder import GraphBuilder

pytestmark = needs_kernels


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


#: Change of the offsets of four bags of three ids, and the row that the error names.
WRONG_OFFSETS: dict[str, tuple[list[int], int]] = {
    "a first one above 0": ([1, 3, 6, 9, 12], 0),
    "a first one below 0": ([-1, 3, 6, 9, 12], 0),
    "one below 0": ([0, 3, -1, 9, 12], 1),
    "one that falls": ([0, 3, 6, 5, 12], 2),
    "one that falls by one before equal ones": ([0, 3, 2, 2, 2], 1),
    "one behind the ids": ([0, 3, 6, 13, 13], 2),
    "a last one behind the ids": ([0, 3, 6, 9, 13], 3),
    "far behind": ([0, 3, 6, 2**40, 2**40], 2),
    "the largest": ([0, 3, 6, 2**63 - 1, 2**63 - 1], 2),
    "the smallest": ([0, 3, 6, -(2**63), 12], 2),
    "the smallest first": ([-(2**63), 3, 6, 9, 12], 0),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["jagged", "jagged mean, weighted"])
@pytest.mark.parametrize("width", [16, 13])
def test_wrong_offsets_are_an_error_and_no_id_is_read_outside(form: str, width: int, level: str) -> None:
    """With memory that no one may read behind the ids, and before them."""
    run = made(form, 32, width, torch.int64, level)
    dense, ids, factors, right = inputs(form, torch.int64, 4)
    for at_end in (True, False):
        held, weights = guarded(ids, at_end=at_end), guarded(factors, at_end=at_end)
        run(dense, held, weights, right)
        for numbers, row in WRONG_OFFSETS.values():
            with pytest.raises(InputError, match=rf"offsets of row {row} point to -?\d+, outside the 12 ids"):
                run(dense, held, weights, torch.tensor(numbers))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["jagged", "jagged mean, weighted"])
def test_right_offsets_of_every_kind(form: str, level: str) -> None:
    """Empty bags, one bag of all ids, and ids after the last offset."""
    run = made(form, 32, 16, torch.int64, level)
    program_ = program(form, 32, 16, torch.int64)
    dense, ids, factors, _ = inputs(form, torch.int64, 4)
    for numbers in (
        [0, 0, 0, 0, 12],
        [0, 12, 12, 12, 12],
        [0, 3, 6, 9, 12],
        [0, 0, 5, 5, 12],
        [0, 0, 0, 0, 0],
    ):
        offsets = torch.tensor(numbers)
        (want,) = program_.run([dense, ids, factors, offsets])
        (got,) = run(dense, guarded(ids), guarded(factors), offsets)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("level", LEVELS)
def test_fewer_weights_than_ids_or_ids_than_weights_are_an_error(level: str) -> None:
    run = made("jagged mean, weighted", 32, 16, torch.int64, level)
    dense, ids, factors, offsets = inputs("jagged mean, weighted", torch.int64, 4)
    with pytest.raises(InputError):
        run(dense, ids, guarded(factors[:-1]), offsets)
    with pytest.raises(InputError):
        run(dense, guarded(ids[:-1]), factors, offsets)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["jagged", "jagged mean, weighted"])
def test_no_offset_is_read_outside_the_offsets(form: str, level: str) -> None:
    """The memory behind as many offsets as bags, and behind fewer, must not be read."""
    run = made(form, 32, 16, torch.int64, level)
    dense, ids, factors, right = inputs(form, torch.int64, 4)
    (want,) = run(dense, ids, factors, right)
    for count in (5, 4):
        (got,) = run(dense, ids, factors, guarded(right[:count]))
        assert torch.equal(got, want)
    for fewer in (guarded(right[:3]), guarded(right[:1]), guarded(right)[5:]):
        with pytest.raises(InputError):
            run(dense, ids, factors, fewer)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [-1, -(2**63)])
def test_an_offset_below_zero_is_an_error_in_every_share_of_the_rows(bad: int, level: str, two_threads: None) -> None:
    """Another thread checks the rows before, maybe later: every share checks its own first offset."""
    run = made("jagged", 32, 16, torch.int64, level)
    rows = 512
    dense, ids, factors, offsets = inputs("jagged", torch.int64, rows)
    held = guarded(ids, at_end=False)
    run(dense, held, factors, offsets)
    for row in (rows // 2, rows // 2 + 1, rows - 1):
        wrong = offsets.clone()
        wrong[row] = bad
        with pytest.raises(InputError, match=rf"offsets of row {row - 1}|offsets of row {row}") as found:
            run(dense, held, factors, wrong)
        assert f"point to {bad}, outside the {rows * LONGEST} ids" in str(found.value)


#: Fields of a feature whose bags end in front of the last ids, and whether torch's operator counts those ids as well.
IDS_BEHIND: dict[str, tuple[dict[str, int], bool]] = {
    "a sum": ({}, False),
    "a weighted sum": ({"weights": 0}, False),
    "a sum without padding rows": ({"padding": 2}, True),
    "a sum, the padding is the first row": ({"padding": 0}, True),
    "a weighted sum without padding rows": ({"padding": 0, "weights": 0}, True),
    "a mean": ({"pooling": lookup.MEAN}, True),
    "a mean without padding rows": ({"pooling": lookup.MEAN, "padding": 0}, True),
    "a weighted mean": ({"pooling": lookup.MEAN, "weights": 0}, False),
    "a weighted mean without padding rows": ({"pooling": lookup.MEAN, "padding": 0, "weights": 0}, False),
    "a mean whose last bag goes up to the end": ({"pooling": lookup.MEAN, "last": 0}, False),
    "the first of two segments": ({"pooling": lookup.MEAN, "segments": 2}, False),
    "the second of two segments": ({"pooling": lookup.MEAN, "segments": 2, "segment": 1}, False),
}


@pytest.mark.parametrize("width", [16, 13])
@pytest.mark.parametrize("name", IDS_BEHIND)
def test_ids_behind_the_last_bag_are_an_error_where_torch_counts_them(name: str, width: int) -> None:
    fields, counted = IDS_BEHIND[name]
    feature = lookup.Feature(0, 0, width, 0, **({"length": lookup.JAGGED, "offsets": 0, "last": 1} | fields))  # type: ignore[arg-type]
    segments, last_offset = feature.segments, int(feature.last)
    shapes: dict[str, Any] = {"dense": ("batch", 1), "ids": (("count",), torch.int64), "factors": ("count",)}
    b = GraphBuilder(shapes | {"offsets": ((f"{segments}*batch + {last_offset}",), torch.int64)})
    dense, ids, factors, offsets = b.inputs.values()
    table, numbers = b.state("table", rows_in(32, width)), lookup.encode([feature])
    built = b.build(
        b.call(lookup.grouped_lookup, [table], [ids], [offsets], [factors], [dense], numbers, [0, width], width + 1)
    )
    given = [torch.ones(4, 1), torch.arange(12) % ROWS, torch.ones(12)]
    for level in LEVELS:
        run = lower(built, level)
        for last in (12, 11, 0):
            starts = torch.arange(4 * segments + 1).clamp(max=last)
            starts[-1] = last
            starts = starts[: 4 * segments + last_offset]
            if counted and last < 12:
                with pytest.raises(InputError, match=rf"the offsets end at {last}, before the end of the 12 ids"):
                    run(*given, guarded(starts))
            else:
                torch.testing.assert_close(run(*given, guarded(starts)), built.run([*given, starts]))
