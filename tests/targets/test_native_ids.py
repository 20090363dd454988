"""Ids outside their table, in every form in which a lookup takes them: an error that names the id, and no row is read.

Every kernel that reads rows checks its ids itself, for speed. The tables below reach each of these checks: by width (whole vectors in
registers, or any), by pooling (a bag, rows side by side, a single row copied), by ids (fixed or jagged bags, 32 or 64 bits), and by format.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from native_kit import LEVELS, generator, lower, needs_kernels, program_of

from recfx.errors import InputError
from recfx.formats import row_bytes
from recfx.ir import Program
from recfx.ops import lookup

pytestmark = needs_kernels

ROWS, LONGEST = 5, 3
WRONG = [-1, ROWS, 2**40, 2**63 - 1, -(2**63)]
WRONG_32 = [-1, ROWS, 2**31 - 1, -(2**31)]
FORMATS = [32, 16, -16, 8, 4, 2, 1]

#: Vectors of 1, 2, 4 and 8 at some level, more than one step of 8, and no whole vector at any.
WIDTHS = [16, 32, 64, 128, 192, 13]

#: How a feature takes its ids: length, pooling, whether there are weights, whether a padding id.
FORMS: dict[str, tuple[int, int, bool, bool]] = {
    "one row": (1, lookup.SUM, False, False),
    "one weighted row": (1, lookup.SUM, True, False),
    "one row or padding": (1, lookup.SUM, False, True),
    "a bag": (LONGEST, lookup.SUM, False, False),
    "a weighted mean": (LONGEST, lookup.MEAN, True, True),
    "side by side": (LONGEST, lookup.NONE, False, False),
    "side by side or padding": (LONGEST, lookup.NONE, False, True),
    "jagged": (lookup.JAGGED, lookup.SUM, False, False),
    "jagged mean, weighted": (lookup.JAGGED, lookup.MEAN, True, True),
}


def guarded(table: torch.Tensor, *, at_end: bool = True) -> torch.Tensor:
    """The same table whose end, or start, lies at memory that no one may read: a stray read there ends the process."""
    page = mmap.PAGESIZE
    own = -(-table.numel() * table.element_size() // page) * page
    area = mmap.mmap(-1, own + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for address in (start, start + page + own):
        if protect(address, page, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    count = table.numel()
    first = own // table.element_size() - count if at_end else 0
    held = torch.frombuffer(memoryview(area)[page : page + own], dtype=table.dtype)[first : first + count]
    return held.view(table.shape).copy_(table)


def rows_in(kind: int, width: int) -> torch.Tensor:
    rng = generator(kind + 100 * width)
    if abs(kind) >= 16:
        dtype = {32: torch.float32, 16: torch.bfloat16, -16: torch.float16}[kind]
        return torch.randn(ROWS, width, generator=rng).to(dtype)
    packed = torch.randint(0, 256, (ROWS, row_bytes(kind, width)), generator=rng).to(torch.uint8)
    packed[:, -4:] = torch.randn(ROWS, 2, generator=rng).half().view(torch.uint8)
    return packed


@cache
def program(form: str, kind: int, width: int, dtype: torch.dtype) -> Program:
    """A lookup of two features that share their ids."""
    length, pooling, weighted, padded = FORMS[form]
    jagged = length == lookup.JAGGED
    features, output = [], 0
    for number in range(2):
        feature = lookup.Feature(
            number, 0, width, output, length=length, pooling=pooling, bits=32 if abs(kind) >= 16 else kind,
            weights=0 if weighted else -1, padding=2 if padded else -1, offsets=0 if jagged else -1,
        )  # fmt: skip
        features.append(feature)
        output += feature.columns
    numbers = lookup.encode(features)

    def look(dense: Any, ids: Any, factors: Any, offsets: Any, *tables: torch.Tensor) -> torch.Tensor:
        starts, weights = [offsets] if jagged else [], [factors] if weighted else []
        return lookup.grouped_lookup(list(tables), [ids], starts, weights, [dense], numbers, [0, output], output + 1)

    batch, count, ends = ({0: torch.export.Dim(name)} for name in ("batch", "count", "ends"))
    sizes = count if jagged else batch
    table = rows_in(kind, width)
    return program_of(
        look,
        inputs(form, dtype, 4),
        [table, table.clone()],
        dynamic_shapes={"inputs": (batch, sizes, sizes, ends)},
    )


@cache
def made(form: str, kind: int, width: int, dtype: torch.dtype, level: str) -> Callable[..., Any]:
    return lower(program(form, kind, width, dtype), level)


def inputs(form: str, dtype: torch.dtype, batch: int) -> list[torch.Tensor]:
    """Dense [B, 1], ids that are right, weights, and offsets."""
    length = FORMS[form][0]
    shape = (batch * LONGEST,) if length == lookup.JAGGED else (batch, length)
    ids = torch.arange(torch.Size(shape).numel()).remainder(ROWS).reshape(shape)
    return [torch.ones(batch, 1), ids.to(dtype), torch.ones(shape), torch.arange(0, batch * LONGEST + 1, LONGEST)]


def check(form: str, kind: int, width: int, dtype: torch.dtype, level: str) -> None:
    """Every wrong number as the first id and as the last, of one row and of several."""
    run = made(form, kind, width, dtype, level)
    for batch in (1, 4):
        dense, ids, factors, offsets = inputs(form, dtype, batch)
        run(dense, ids, factors, offsets)
        for bad in WRONG if dtype is torch.int64 else WRONG_32:
            for place in (0, ids.numel() - 1):
                wrong = ids.clone()
                wrong.view(-1)[place] = bad
                row = place * batch // ids.numel()
                with pytest.raises(InputError, match=rf"id {bad} in row {row} is outside its table of {ROWS} rows"):
                    run(dense, wrong, factors, offsets)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_wrong_ids_are_an_error(form: str, kind: int, level: str) -> None:
    """In every form and format; of the widths one that this level keeps in registers, and one that it does not."""
    check(form, kind, WIDTHS[FORMATS.index(kind) % 4], torch.int64, level)
    check(form, kind, 13, torch.int32, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_wrong_ids_of_every_width(width: int, level: str) -> None:
    for form in ("one row", "a bag", "side by side", "jagged"):
        for dtype in (torch.int64, torch.int32):
            check(form, 32, width, dtype, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("function", ["embedding", "index_select", "index"])
def test_wrong_ids_of_plain_lookups(function: str, level: str) -> None:
    """`nn.functional.embedding` and picks of rows by an index; those of `table[ids]` count from the end when they are negative."""
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "embedding": lambda ids, table: torch.nn.functional.embedding(ids, table) * 1.0,
        "index_select": lambda ids, table: table.index_select(0, ids) * 1.0,
        "index": lambda ids, table: table[ids] * 1.0,
    }
    table = torch.randn(ROWS, 16)
    for dtype in (torch.int64, torch.int32):
        ids = torch.tensor([0, ROWS - 1, 2, 1], dtype=dtype)
        run = lower(program_of(calls[function], [ids], [table], dynamic_shapes=False), level)
        assert torch.equal(run(ids)[0], table[ids.long()])
        for bad in WRONG if dtype is torch.int64 else WRONG_32:
            if function == "index" and bad == -1:
                bad = -ROWS - 1
            for place in (0, 3):
                wrong = ids.clone()
                wrong[place] = bad
                with pytest.raises(InputError, match=rf"id {bad} .*outside"):
                    run(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_wrong_ids_in_float_columns(level: str) -> None:
    """Ids that come as floating-point numbers, cast by the model."""
    table = torch.randn(ROWS, 16)

    def look(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(x[:, 1].long(), table) * 1.0

    x = torch.tensor([[0.5, 0.0], [0.5, 4.0], [0.5, 2.0]])
    run = lower(program_of(look, [x], [table], dynamic_shapes=False), level)
    assert torch.equal(run(x)[0], table[[0, 4, 2]])
    for bad in (-1.0, 5.0, 2.0**40, 2.0**63, -(2.0**63), 1e30, float("inf"), -float("inf"), float("nan")):
        wrong = x.clone()
        wrong[2, 1] = bad
        with pytest.raises(InputError, match="outside its table"):
            run(wrong)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [-1, ROWS, 2**40, 2**63 - 1, -(2**63)])
def test_wrong_positions(bad: int, level: str) -> None:
    """A gather along a sequence by a number of each row."""

    def last(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return x.gather(1, lengths[:, None, None].expand(-1, 1, 8)).squeeze(1) * 1.0

    x, lengths = torch.randn(3, ROWS, 8), torch.tensor([0, 4, 2])
    run = lower(program_of(last, [x, lengths], [], dynamic_shapes=False), level)
    assert torch.equal(run(x, lengths)[0], x[torch.arange(3), lengths])
    lengths[1] = bad
    with pytest.raises(InputError, match=rf"id {bad} .*outside"):
        run(x, lengths)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", FORMATS)
def test_no_row_is_read_outside_a_table(kind: int, level: str) -> None:
    """Beside a table lies memory that ends the process when it is read; the largest and smallest ids ask for none of it."""
    table = guarded(rows_in(kind, 16))
    features = [lookup.Feature(0, 0, 16, 0, length=3, bits=32 if abs(kind) >= 16 else kind)]
    numbers = lookup.encode(features)

    def look(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return lookup.grouped_lookup([table], [ids], [], [], [], numbers, [], 16)

    ids = torch.tensor([[0, 4, 4], [4, 0, 4]])
    run = lower(program_of(look, [ids], [table], dynamic_shapes=False), level)
    assert torch.equal(run(ids)[0][0, :8], run(ids.roll(1, 0))[0][1, :8])
    for bad in (-1, ROWS, 2**40, 2**63 - 1, -(2**63)):
        ids[1, 2] = bad
        with pytest.raises(InputError, match=f"id {bad} "):
            run(ids)


#: What offsets of four bags of three ids become, and which row is named.
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
    """Empty bags, one bag of all ids, and ids behind the last offset."""
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
    """Behind as many offsets as bags, and behind fewer, lies memory that no one may read."""
    run = made(form, 32, 16, torch.int64, level)
    dense, ids, factors, right = inputs(form, torch.int64, 4)
    (want,) = run(dense, ids, factors, right)
    for count in (5, 4):
        (got,) = run(dense, ids, factors, guarded(right[:count]))
        assert torch.equal(got, want)
    for fewer in (guarded(right[:3]), guarded(right[:1]), guarded(right)[5:]):
        with pytest.raises(InputError):
            run(dense, ids, factors, fewer)
